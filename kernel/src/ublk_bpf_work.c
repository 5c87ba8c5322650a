// SPDX-License-Identifier: GPL-2.0
/*
 * Where works of the engine run, and on whose account.
 */
#include <linux/blk-cgroup.h>
#include <linux/init.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include "ublk_bpf_int.h"

/*
 * Works for block devices have a rescuer: memory may be reclaimed by writing to
 * them. A rescuer is a thread, so they share queues: one for lanes, one for
 * what waits for more than a request of the backing. This holds as long as the
 * backing does its work without ours: a device on top of others, or of what may
 * hide them, has queues of its own, or the rescuer could wait for itself. Two,
 * like the others: what waits for the reserve of bvecs waits for lanes.
 *
 * Works that enter a file system have none, like the loop driver's: a file
 * system waits for works of queues without a rescuer (ext4 for its discards
 * when it is full), which a queue with one must not do. Those that block for
 * long are on a queue of the device, so that it can only fill up its own.
 */
static struct workqueue_struct *ublk_bpf_lane_wq;
static struct workqueue_struct *ublk_bpf_slow_wq;
static struct workqueue_struct *ublk_bpf_file_lane_wq;
/* of attachments, which may outlive the device */
static struct workqueue_struct *ublk_bpf_retire_wq;

int ublk_bpf_init_queues(void)
{
	const unsigned int rescued = WQ_UNBOUND | WQ_MEM_RECLAIM;

	ublk_bpf_lane_wq = alloc_workqueue("ublk_bpf", rescued, WQ_MAX_ACTIVE);
	ublk_bpf_slow_wq = alloc_workqueue("ublk_bpf_slow", rescued,
					   WQ_MAX_ACTIVE);
	ublk_bpf_file_lane_wq = alloc_workqueue("ublk_bpf_file", WQ_UNBOUND,
						WQ_MAX_ACTIVE);
	ublk_bpf_retire_wq = alloc_workqueue("ublk_bpf_retire", WQ_UNBOUND,
					     WQ_MAX_ACTIVE);
	if (!ublk_bpf_init_reqs() && ublk_bpf_lane_wq && ublk_bpf_slow_wq &&
	    ublk_bpf_file_lane_wq && ublk_bpf_retire_wq)
		return 0;
	ublk_bpf_exit_queues();
	return -ENOMEM;
}

static void ublk_bpf_destroy_queue(struct workqueue_struct **wq)
{
	if (*wq)
		destroy_workqueue(*wq);
	*wq = NULL;
}

/* Of a module: no device is left, but what they had attached may still retire */
void ublk_bpf_exit_queues(void)
{
	rcu_barrier();	/* percpu_ref's callback queues the work, */
	rcu_barrier();	/* and the one that frees the epoch */
	ublk_bpf_destroy_queue(&ublk_bpf_retire_wq);
	ublk_bpf_destroy_queue(&ublk_bpf_file_lane_wq);
	ublk_bpf_destroy_queue(&ublk_bpf_slow_wq);
	ublk_bpf_destroy_queue(&ublk_bpf_lane_wq);
	ublk_bpf_exit_reqs();
}

#ifndef UBLK_BPF_STRUCT_OPS
/* Attach looks whether this has failed */
late_initcall(ublk_bpf_init_queues);
#endif

void ublk_bpf_queue_retire(struct ublk_bpf_att *att)
{
	queue_work(att->rescued ? ublk_bpf_slow_wq : ublk_bpf_retire_wq,
		   &att->retire);
}

/* Of works that wait for more than a request of the backing */
struct workqueue_struct *ublk_bpf_slow_queue(const struct ublk_bpf_dev *bd)
{
	return READ_ONCE(bd->own_slow_wq) ?: ublk_bpf_slow_wq;
}

/* Of a lane: of files, or of block devices */
struct workqueue_struct *ublk_bpf_lane_queue(const struct ublk_bpf_dev *bd,
					     bool reg)
{
	if (reg)
		return ublk_bpf_file_lane_wq;
	return READ_ONCE(bd->own_lane_wq) ?: ublk_bpf_lane_wq;
}

static void ublk_bpf_alloc_workers(struct ublk_bpf_dev *bd)
{
	unsigned int i, nr_lanes = bd->nr_hw_queues * 2;

	bd->lanes = kzalloc_objs(*bd->lanes, nr_lanes, GFP_KERNEL);
	bd->bvecs = mempool_create_kmalloc_pool(1, BIO_MAX_VECS *
						sizeof(struct bio_vec));
	if (!bd->lanes || !bd->bvecs)
		return;
	for (i = 0; i < nr_lanes; i++) {
		init_llist_head(&bd->lanes[i].list);
		INIT_WORK(&bd->lanes[i].work, ublk_bpf_lane_workfn);
	}
	/* the last of the three, so that it stands for all of them */
	bd->wq = alloc_workqueue("ublk_bpf%u", WQ_UNBOUND, WQ_MAX_ACTIVE,
				 bd->dev_id);
}

static bool ublk_bpf_alloc_own(struct ublk_bpf_dev *bd)
{
	const unsigned int rescued = WQ_UNBOUND | WQ_MEM_RECLAIM;

	if (!bd->own_lane_wq)
		WRITE_ONCE(bd->own_lane_wq,
			   alloc_workqueue("ublk_bpf%u_own", rescued,
					   WQ_MAX_ACTIVE, bd->dev_id));
	if (!bd->own_slow_wq)
		WRITE_ONCE(bd->own_slow_wq,
			   alloc_workqueue("ublk_bpf%u_slow", rescued,
					   WQ_MAX_ACTIVE, bd->dev_id));
	return bd->own_lane_wq && bd->own_slow_wq;
}

/*
 * The first attach pays for what a device without a program does not need. It
 * waits for memory, so not under ublk_bpf_lock.
 */
int ublk_bpf_init_workers(struct ublk_bpf_dev *bd, bool stacked)
{
	static DEFINE_MUTEX(lock);
	int ret;

	if (!ublk_bpf_retire_wq)
		return -ENOMEM;
	if (!READ_ONCE(bd->nr_hw_queues))
		return -ENODEV;
	if (mutex_lock_killable(&lock))
		return -ECANCELED;
	if (!bd->wq)
		ublk_bpf_alloc_workers(bd);
	if (!bd->wq)
		ublk_bpf_exit_workers(bd);
	ret = bd->wq && (!stacked || ublk_bpf_alloc_own(bd)) ? 0 : -ENOMEM;
	mutex_unlock(&lock);
	return ret;
}

/* No request is left; but a work that has issued the last one may still run */
void ublk_bpf_exit_workers(struct ublk_bpf_dev *bd)
{
	unsigned int i;

	if (bd->wq) {
		for (i = 0; i < bd->nr_hw_queues * 2; i++)
			flush_work(&bd->lanes[i].work);
	}
	ublk_bpf_destroy_queue(&bd->own_slow_wq);
	ublk_bpf_destroy_queue(&bd->own_lane_wq);
	ublk_bpf_destroy_queue(&bd->wq);
	kfree(bd->lanes);
	bd->lanes = NULL;
	mempool_destroy(bd->bvecs);
	bd->bvecs = NULL;
}

void ublk_bpf_enter_worker(struct ublk_bpf_worker *w)
{
	w->noio = memalloc_noio_save();
	/* writeback of a file system on this device must not wait for others */
	w->throttle = current->flags & PF_LOCAL_THROTTLE;
	current->flags |= PF_LOCAL_THROTTLE;
	w->blkcg = NULL;
}

/* Charge the I/O to whom the request is charged */
void ublk_bpf_set_blkcg(struct ublk_bpf_worker *w, struct bio *bio)
{
#ifdef CONFIG_BLK_CGROUP
	struct cgroup_subsys_state *css = NULL;

	if (bio)
		css = bio_blkcg_css(bio);
	if (css == blkcg_root_css)
		css = NULL;
	if (likely(css == w->blkcg))
		return;
	kthread_associate_blkcg(css);
	w->blkcg = css;
#endif
}

/*
 * Pages that a file's operations put into its page cache are charged to the
 * memory cgroup of whoever is charged for the I/O. Returns its css, or NULL.
 */
struct cgroup_subsys_state *
ublk_bpf_enter_memcg(struct bio *bio, struct mem_cgroup **old)
{
	struct cgroup_subsys_state *css = NULL;

#if defined(CONFIG_BLK_CGROUP) && defined(CONFIG_MEMCG)
	struct cgroup_subsys_state *blkcg;

	blkcg = bio ? bio_blkcg_css(bio) : NULL;
	if (!blkcg || blkcg == blkcg_root_css)
		return NULL;
	css = cgroup_get_e_css(blkcg->cgroup, &memory_cgrp_subsys);
	if (css)
		*old = set_active_memcg(mem_cgroup_from_css(css));
#endif
	return css;
}

void ublk_bpf_leave_memcg(struct cgroup_subsys_state *css,
			  struct mem_cgroup *old)
{
	if (!css)
		return;
	set_active_memcg(old);
	css_put(css);
}

void ublk_bpf_leave_worker(struct ublk_bpf_worker *w)
{
	if (w->blkcg)
		kthread_associate_blkcg(NULL);
	current->flags = (current->flags & ~PF_LOCAL_THROTTLE) | w->throttle;
	memalloc_noio_restore(w->noio);
}
