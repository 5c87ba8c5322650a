// SPDX-License-Identifier: GPL-2.0
/*
 * BPF programs that serve ublk requests in the kernel: attach, detach, info.
 *
 * An attachment is published by an RCU pointer to its epoch, which is kept by a
 * percpu reference of each request that uses it. Detach waits for these
 * references, not for a queue freeze: a server that detaches its own program
 * would wait for requests that it has to serve.
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
				 UBLK_BPF_ATTACH_F_INLINE_REG | \
				 UBLK_BPF_ATTACH_F_COMPLETE | \
				 UBLK_BPF_ATTACH_F_PASS_ERRORS | \
				 UBLK_BPF_ATTACH_F_REQUESTS)

static int ublk_bpf_get_progs(struct ublk_bpf_att *att,
			      const struct ublk_bpf_attach *arg)
{
	struct bpf_prog *prog;

	prog = ublk_bpf_face_get_prog(arg->prog_fd, false);
	if (IS_ERR(prog))
		return PTR_ERR(prog);
	att->prog = prog;
	if (!(arg->flags & UBLK_BPF_ATTACH_F_COMPLETE))
		return 0;
	prog = ublk_bpf_face_get_prog(arg->complete_fd, true);
	if (IS_ERR(prog))
		return PTR_ERR(prog);
	att->complete = prog;
	return 0;
}

static struct ublk_bpf_att *
ublk_bpf_alloc_att(struct ublk_bpf_dev *bd, const struct ublk_bpf_attach *arg)
{
	struct ublk_bpf_att *att;
	int ret;
	u32 i;

	att = kzalloc_obj(*att, GFP_KERNEL);
	if (!att)
		return ERR_PTR(-ENOMEM);
	ublk_bpf_init_retire(att);
	att->bd = bd;
	att->flags = arg->flags;
	att->rescued = true;
	att->reg = arg->nr_files;

	ret = ublk_bpf_get_progs(att, arg);
	if (ret)
		goto free;

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
		att->reg &= att->files[i].reg;
		att->rescued &= !att->files[i].reg && !att->files[i].stacked;
	}
	return att;
free:
	ublk_bpf_free_att(att);
	return ERR_PTR(ret);
}

/* Returns what was attached before, NULL, or an error with nothing changed */
static struct ublk_bpf_att *ublk_bpf_publish(struct ublk_bpf_dev *bd,
					     struct ublk_bpf_epoch *epoch)
	__must_hold(&ublk_bpf_lock)
{
	struct ublk_bpf_att *att = epoch->att;
	int ret;

	if (!bd->disk)
		return ERR_PTR(-ENODEV);
	if (ublk_bpf_get_att(bd) &&
	    !(att->flags & UBLK_BPF_ATTACH_F_REPLACE))
		return ERR_PTR(-EBUSY);
	ret = ublk_bpf_check_files(bd, att);
	if (!ret && ublk_bpf_wants_bios(att) && !ublk_bpf_can_intercept(bd))
		ret = -ENOMEM;
	if (ret)
		return ERR_PTR(ret);
	/* no FLUSH comes to a device that does not announce a cache */
	att->durable = !(bd->disk->queue->limits.features &
			 BLK_FEAT_WRITE_CACHE);
	WRITE_ONCE(bd->nr_attach, bd->nr_attach + 1);
	return ublk_bpf_set_epoch(bd, epoch, false);
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
	struct ublk_bpf_epoch *epoch;
	struct ublk_bpf_attach arg;
	int ret;

	if (!header->addr || header->len < sizeof(arg))
		return -EINVAL;
	ret = copy_struct_from_user(&arg, sizeof(arg),
				    u64_to_user_ptr(header->addr), header->len);
	if (ret)
		return ret;
	if (arg.flags & ~UBLK_BPF_ATTACH_F_ALL ||
	    arg.nr_files > UBLK_BPF_MAX_FILES)
		return -EINVAL;
	if (arg.complete_fd && !(arg.flags & UBLK_BPF_ATTACH_F_COMPLETE))
		return -EINVAL;

	att = ublk_bpf_alloc_att(bd, &arg);
	if (IS_ERR(att))
		return PTR_ERR(att);
	ret = -ENOMEM;
	epoch = ublk_bpf_new_epoch(att);
	if (!epoch)
		goto free_att;
	ret = ublk_bpf_init_workers(bd, att->stacked);
	if (!ret && mutex_lock_killable(&ublk_bpf_lock))
		ret = -ECANCELED;
	if (ret)
		goto put_epoch;
	old = ublk_bpf_publish(bd, epoch);
	mutex_unlock(&ublk_bpf_lock);
	if (IS_ERR(old)) {
		ret = PTR_ERR(old);
		goto put_epoch;
	}
	return old ? ublk_bpf_wait_retired(old) : 0;

put_epoch:
	ublk_bpf_put_epoch(epoch);
free_att:
	ublk_bpf_free_att(att);
	return ret;
}

/* Also after one that was killed while it waited: waits on */
static int ublk_bpf_detach(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_att *old;

	if (mutex_lock_killable(&ublk_bpf_lock))
		return -ECANCELED;
	old = ublk_bpf_set_epoch(bd, NULL, false);
	if (!old)
		old = ublk_bpf_last_owed(bd);
	mutex_unlock(&ublk_bpf_lock);
	return old ? ublk_bpf_wait_retired(old) : -ENOENT;
}

/* Puts @epoch */
static int ublk_bpf_wait_epoch(struct ublk_bpf_epoch *epoch)
{
	int ret = wait_for_completion_killable(&epoch->done);

	ublk_bpf_put_epoch(epoch);
	return ret ? -EINTR : 0;
}

/* What was replaced up to @no, and still has requests */
static int ublk_bpf_drain_owed(struct ublk_bpf_dev *bd, u64 no)
{
	struct ublk_bpf_epoch *epoch;
	int ret;

	do {
		if (mutex_lock_killable(&ublk_bpf_lock))
			return -EINTR;
		epoch = ublk_bpf_owed_epoch(bd, no);
		mutex_unlock(&ublk_bpf_lock);
		ret = epoch ? ublk_bpf_wait_epoch(epoch) : 0;
	} while (epoch && !ret);
	return ret;
}

/* Of what comes after this, nobody waits: it uses another epoch */
static int ublk_bpf_drain(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_epoch *epoch, *last = NULL;
	struct ublk_bpf_att *att;
	u64 owed_no;
	int ret;

	epoch = ublk_bpf_new_epoch(NULL);
	if (!epoch)
		return -ENOMEM;
	if (mutex_lock_killable(&ublk_bpf_lock)) {
		ublk_bpf_put_epoch(epoch);
		return -ECANCELED;
	}
	att = ublk_bpf_get_att(bd);
	if (att) {
		epoch->att = att;
		last = ublk_bpf_next_epoch(bd, epoch);
	}
	owed_no = bd->home->last_no;
	mutex_unlock(&ublk_bpf_lock);
	if (!att) {
		ublk_bpf_put_epoch(epoch);
		return -ENOENT;
	}
	ret = ublk_bpf_wait_epoch(last);
	return ret ?: ublk_bpf_drain_owed(bd, owed_no);
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
		info->bios += READ_ONCE(s->bios);
		info->rounds += READ_ONCE(s->rounds);
		info->passed_late += READ_ONCE(s->passed_late);
		info->errors_passed += READ_ONCE(s->errors_passed);
		info->retries += READ_ONCE(s->retries);
		for (i = 0; i < UBLK_BPF_NR_REFUSED; i++)
			info->refused[i].count += READ_ONCE(s->refused[i]);
	}
	info->sqes += info->redirected;
}

static int ublk_bpf_get_info(struct ublk_bpf_dev *bd,
			     const struct ublksrv_ctrl_cmd *header)
{
	struct ublk_bpf_info info = {};
	const struct ublk_bpf_epoch *epoch;

	if (!header->addr || !header->len)
		return -EINVAL;
	/* not under the lock: nothing is to keep anybody from asking */
	rcu_read_lock();
	epoch = rcu_dereference(bd->epoch);
	if (epoch) {
		const struct ublk_bpf_att *att = epoch->att;

		info.prog_id = att->prog->aux->id;
		info.complete_id = att->complete ? att->complete->aux->id : 0;
		info.attach_flags = att->flags;
		info.nr_files = att->nr_files;
	}
	rcu_read_unlock();
	info.version = UBLK_BPF_VERSION;
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
	case UBLK_CMD_DRAIN_BPF:
		return ublk_bpf_drain(bd);
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
	lockdep_register_key(&bd->srcu_key);
	lockdep_register_key(&bd->elevator_key);
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
		UBLK_BPF_PDU_SIZE;
}
EXPORT_SYMBOL_GPL(ublk_bpf_init_tag_set);

/* A request has no more bvecs than segments: the reserve is enough for it */
void ublk_bpf_set_limits(struct queue_limits *lim)
{
	lim->max_segments = min_t(unsigned int, lim->max_segments,
				  BIO_MAX_VECS);
}
EXPORT_SYMBOL_GPL(ublk_bpf_set_limits);

/*
 * Requests are issued to other queues from within ours. These locks of a queue
 * have one class for all queues, so that lockdep would see rings where devices
 * make none, see ublk_bpf_file.c.
 */
static void ublk_bpf_init_lockdep(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	lockdep_set_class(&disk->queue->elevator_lock, &bd->elevator_key);
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	lockdep_init_map(&disk->queue->tag_set->srcu->dep_map, "ublk_bpf_srcu",
			 &bd->srcu_key, 0);
#endif
}

/*
 * Before the disk is added. Writeback is throttled for the backing already; to
 * do it once more costs a cache line that all processors share.
 */
void ublk_bpf_init_disk(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	ublk_bpf_init_lockdep(bd, disk);
	set_bit(QUEUE_FLAG_DISABLE_WBT_DEF, &disk->queue->queue_flags);
}
EXPORT_SYMBOL_GPL(ublk_bpf_init_disk);

/* From here on programs can be attached */
void ublk_bpf_start_dev(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	ublk_bpf_init_intercept(bd, disk);
	mutex_lock(&ublk_bpf_lock);
	WRITE_ONCE(bd->stopping, false);
	WRITE_ONCE(bd->pdu_bytes, disk->queue->tag_set->cmd_size);
	WRITE_ONCE(bd->nr_hw_queues, disk->queue->tag_set->nr_hw_queues);
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
		old = ublk_bpf_set_epoch(bd, NULL, true);
		bd->disk = NULL;
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
	lockdep_unregister_key(&bd->srcu_key);
	lockdep_unregister_key(&bd->elevator_key);
}
EXPORT_SYMBOL_GPL(ublk_bpf_exit_dev);
