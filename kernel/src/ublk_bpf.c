// SPDX-License-Identifier: GPL-2.0
/*
 * BPF programs that serve ublk requests in the kernel: attach, detach, info.
 *
 * An attachment is published by an RCU pointer and kept by a percpu reference
 * of each request that uses it. Detach waits for these references, not for a
 * queue freeze: a server that detaches its own program would wait for requests
 * that it has to serve.
 */
#include <linux/bio.h>
#include <linux/blk-mq.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "ublk_bpf_int.h"

#define UBLK_BPF_ATTACH_F_ALL	(UBLK_BPF_ATTACH_F_REPLACE | \
				 UBLK_BPF_ATTACH_F_NO_INLINE | \
				 UBLK_BPF_ATTACH_F_INLINE_REG)

static struct ublk_bpf_att *
ublk_bpf_alloc_att(struct ublk_bpf_dev *bd, const struct ublk_bpf_attach *arg)
{
	struct ublk_bpf_att *att;
	struct bpf_prog *prog;
	int ret;
	u32 i;

	att = kzalloc_obj(*att, GFP_KERNEL);
	if (!att)
		return ERR_PTR(-ENOMEM);
	ret = ublk_bpf_init_ref(att);
	if (ret) {
		kfree(att);
		return ERR_PTR(ret);
	}
	att->bd = bd;
	att->flags = arg->flags;
	att->rescued = true;

	prog = ublk_bpf_face_get_prog(arg->prog_fd);
	if (IS_ERR(prog)) {
		ret = PTR_ERR(prog);
		goto free;
	}
	att->prog = prog;

	for (i = 0; i < arg->nr_files; i++) {
		struct file *file = fget(arg->fds[i]);

		ret = -EBADF;
		if (!file)
			goto free;
		ret = ublk_bpf_init_file(&att->files[i], file, arg->flags);
		att->nr_files++;
		if (ret)
			goto free;
		att->stacked |= att->files[i].stacked;
		att->rescued &= !att->files[i].reg && !att->files[i].stacked;
	}
	return att;
free:
	ublk_bpf_free_att(att);
	return ERR_PTR(ret);
}

/* Returns what was attached before, NULL, or an error with nothing changed */
static struct ublk_bpf_att *ublk_bpf_publish(struct ublk_bpf_dev *bd,
					     struct ublk_bpf_att *att)
	__must_hold(&ublk_bpf_lock)
{
	int ret;

	if (!bd->disk)
		return ERR_PTR(-ENODEV);
	if (rcu_access_pointer(bd->att) &&
	    !(att->flags & UBLK_BPF_ATTACH_F_REPLACE))
		return ERR_PTR(-EBUSY);
	ret = ublk_bpf_check_files(bd, att);
	if (ret)
		return ERR_PTR(ret);
	/* no FLUSH comes to a device that does not announce a cache */
	att->durable = !(bd->disk->queue->limits.features &
			 BLK_FEAT_WRITE_CACHE);
	WRITE_ONCE(bd->nr_attach, bd->nr_attach + 1);
	return ublk_bpf_set_att(bd, att, false);
}

/*
 * Until no request uses what was attached before, and its files are synced.
 * Neither needs us: whoever waits may be killed.
 */
static int ublk_bpf_wait_retired(struct ublk_bpf_att *old)
{
	int ret;

	ret = wait_for_completion_killable(&old->retired);
	if (ret)
		ret = -EINTR;
	else
		ret = old->sync_error;
	ublk_bpf_put_att(old);
	return ret;
}

static int ublk_bpf_attach(struct ublk_bpf_dev *bd,
			   const struct ublksrv_ctrl_cmd *header)
{
	struct ublk_bpf_att *att, *old;
	struct ublk_bpf_attach arg;
	int ret;

	if (!header->addr || header->len < sizeof(arg))
		return -EINVAL;
	ret = copy_struct_from_user(&arg, sizeof(arg),
				    u64_to_user_ptr(header->addr), header->len);
	if (ret)
		return ret;
	if (arg.reserved || arg.flags & ~UBLK_BPF_ATTACH_F_ALL ||
	    arg.nr_files > UBLK_BPF_MAX_FILES)
		return -EINVAL;

	att = ublk_bpf_alloc_att(bd, &arg);
	if (IS_ERR(att))
		return PTR_ERR(att);
	ret = ublk_bpf_init_workers(bd, att->stacked);
	if (!ret && mutex_lock_killable(&ublk_bpf_lock))
		ret = -ECANCELED;
	if (ret) {
		ublk_bpf_free_att(att);
		return ret;
	}
	old = ublk_bpf_publish(bd, att);
	mutex_unlock(&ublk_bpf_lock);
	if (IS_ERR(old)) {
		ublk_bpf_free_att(att);
		return PTR_ERR(old);
	}
	return old ? ublk_bpf_wait_retired(old) : 0;
}

/* Also after one that was killed while it waited: waits on */
static int ublk_bpf_detach(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_att *old;

	if (mutex_lock_killable(&ublk_bpf_lock))
		return -ECANCELED;
	old = ublk_bpf_set_att(bd, NULL, false);
	if (!old)
		old = ublk_bpf_last_owed(bd);
	mutex_unlock(&ublk_bpf_lock);
	return old ? ublk_bpf_wait_retired(old) : -ENOENT;
}

static void ublk_bpf_sum_stats(struct ublk_bpf_dev *bd,
			       struct ublk_bpf_info *info)
{
	unsigned int i;
	int cpu;

	for (i = 0; i < UBLK_BPF_NR_REFUSED; i++)
		info->refused[i].error = ublk_bpf_reason_errno(i);
	for_each_possible_cpu(cpu) {
		const struct ublk_bpf_stats *s = per_cpu_ptr(bd->stats, cpu);

		info->redirected += READ_ONCE(s->redirected);
		info->passed += READ_ONCE(s->passed);
		info->dropped += READ_ONCE(s->dropped);
		info->aborted += READ_ONCE(s->aborted);
		info->failed += READ_ONCE(s->failed);
		info->sqes += READ_ONCE(s->more_sqes);
		info->deferred += READ_ONCE(s->deferred);
		for (i = 0; i < UBLK_BPF_NR_REFUSED; i++)
			info->refused[i].count += READ_ONCE(s->refused[i]);
	}
	info->sqes += info->redirected;
}

static int ublk_bpf_get_info(struct ublk_bpf_dev *bd,
			     const struct ublksrv_ctrl_cmd *header)
{
	struct ublk_bpf_info info = {};
	const struct ublk_bpf_att *att;

	if (!header->addr || !header->len)
		return -EINVAL;
	/* not under the lock: nothing is to keep anybody from asking */
	rcu_read_lock();
	att = rcu_dereference(bd->att);
	if (att) {
		info.prog_id = att->prog->aux->id;
		info.attach_flags = att->flags;
		info.nr_files = att->nr_files;
	}
	rcu_read_unlock();
	info.pdu_bytes = READ_ONCE(bd->pdu_bytes);
	info.nr_attach = READ_ONCE(bd->nr_attach);
	spin_lock_irq(&bd->home->lock);
	info.nr_retiring = bd->home->nr_owed;
	info.sync_error = -bd->home->sync_error;
	info.sync_failed = bd->home->sync_failed;
	spin_unlock_irq(&bd->home->lock);

	ublk_bpf_sum_stats(bd, &info);
	raw_spin_lock_irq(&bd->last_lock);
	info.last = bd->last;
	raw_spin_unlock_irq(&bd->last_lock);

	if (copy_to_user(u64_to_user_ptr(header->addr), &info,
			 min_t(size_t, header->len, sizeof(info))))
		return -EFAULT;
	return 0;
}

/* The caller has checked that the device was added with UBLK_F_BPF */
int ublk_bpf_ctrl_cmd(struct ublk_bpf_dev *bd, u32 cmd,
		      const struct ublksrv_ctrl_cmd *header)
{
	switch (cmd) {
	case UBLK_CMD_ATTACH_BPF:
		return ublk_bpf_attach(bd, header);
	case UBLK_CMD_DETACH_BPF:
		return ublk_bpf_detach(bd);
	case UBLK_CMD_GET_BPF_INFO:
		return ublk_bpf_get_info(bd, header);
	default:
		return -EOPNOTSUPP;
	}
}
EXPORT_SYMBOL_GPL(ublk_bpf_ctrl_cmd);

int ublk_bpf_init_dev(struct ublk_bpf_dev *bd, u32 dev_id)
{
	int ret;

	bd->stats = alloc_percpu(struct ublk_bpf_stats);
	if (!bd->stats)
		return -ENOMEM;
	ret = ublk_bpf_init_home(bd);
	if (ret) {
		free_percpu(bd->stats);
		bd->stats = NULL;
		return ret;
	}
	raw_spin_lock_init(&bd->last_lock);
	bd->dev_id = dev_id;
	return 0;
}
EXPORT_SYMBOL_GPL(ublk_bpf_init_dev);

void ublk_bpf_init_tag_set(struct blk_mq_tag_set *set)
{
	/*
	 * What is issued inline may sleep, if not for long. A scheduler would
	 * send requests of a blocking queue through kblockd.
	 */
	set->flags |= BLK_MQ_F_BLOCKING | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	/* after what the driver has there itself */
	set->cmd_size = ALIGN(set->cmd_size, __alignof__(struct ublk_bpf_req)) +
		sizeof(struct ublk_bpf_req);
}
EXPORT_SYMBOL_GPL(ublk_bpf_init_tag_set);

/* A request has no more bvecs than segments: the reserve is enough for it */
void ublk_bpf_set_limits(struct queue_limits *lim)
{
	lim->max_segments = min_t(unsigned int, lim->max_segments,
				  BIO_MAX_VECS);
}
EXPORT_SYMBOL_GPL(ublk_bpf_set_limits);

/* From here on programs can be attached */
void ublk_bpf_start_dev(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	mutex_lock(&ublk_bpf_lock);
	WRITE_ONCE(bd->stopping, false);
	WRITE_ONCE(bd->pdu_bytes, disk->queue->tag_set->cmd_size);
	WRITE_ONCE(bd->nr_hw_queues, disk->queue->tag_set->nr_hw_queues);
	bd->srcu = disk->queue->tag_set->srcu;
	bd->disk = disk;
	ublk_bpf_enter_graph(bd);
	mutex_unlock(&ublk_bpf_lock);
}
EXPORT_SYMBOL_GPL(ublk_bpf_start_dev);

/*
 * After del_gendisk(), which has waited for all I/O: do not keep the files of
 * a device that is stopped, but not deleted.
 */
void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_att *old = NULL;

	mutex_lock(&ublk_bpf_lock);
	if (bd->disk) {
		ublk_bpf_leave_graph(bd);
		bd->disk = NULL;
		old = ublk_bpf_set_att(bd, NULL, true);
	}
	mutex_unlock(&ublk_bpf_lock);
	if (!old)
		return;
	/*
	 * No request is left: this takes a grace period, and then the files
	 * are closed. That may take long, and to wait for it is a courtesy.
	 */
	wait_for_completion_killable_timeout(&old->retired, HZ);
	ublk_bpf_put_att(old);
}
EXPORT_SYMBOL_GPL(ublk_bpf_stop_dev);

/* The last reference of the device is gone. Also if it never was initialised */
void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd)
{
	if (!bd->stats)
		return;
	ublk_bpf_exit_workers(bd);
	ublk_bpf_exit_home(bd);
	free_percpu(bd->stats);
}
EXPORT_SYMBOL_GPL(ublk_bpf_exit_dev);
