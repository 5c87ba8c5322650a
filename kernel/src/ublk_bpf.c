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
#include <linux/stat.h>
#include <linux/uaccess.h>
#include "ublk_bpf_int.h"

#define UBLK_BPF_ATTACH_F_ALL	(UBLK_BPF_ATTACH_F_REPLACE | \
				 UBLK_BPF_ATTACH_F_NO_INLINE | \
				 UBLK_BPF_ATTACH_F_INLINE_REG)

static void ublk_bpf_ref_release(struct percpu_ref *ref)
{
	complete(&container_of(ref, struct ublk_bpf_att, ref)->done);
}

static void ublk_bpf_put_files(struct ublk_bpf_att *att)
{
	u32 i;

	for (i = 0; i < att->nr_files; i++)
		fput(att->files[i].file);
}

static void ublk_bpf_free_att(struct ublk_bpf_att *att)
{
	ublk_bpf_put_files(att);
	if (att->prog)
		bpf_prog_put(att->prog);
	percpu_ref_exit(&att->ref);
	kfree_rcu(att, rcu);
}

/*
 * A later FLUSH goes to another program's files or to the server: what was
 * completed by this attachment must be as durable as that FLUSH promises.
 */
static void ublk_bpf_sync_files(struct ublk_bpf_att *att)
{
	unsigned int i;
	int ret;

	for_each_set_bit(i, &att->written, UBLK_BPF_MAX_FILES) {
		ret = vfs_fsync(att->files[i].file, 1);
		if (ret)
			pr_warn("ublkb%u: sync of file %u at detach: %d\n",
				att->bd->dev_id, i, ret);
	}
}

/*
 * Once it returns, no request uses what was attached before. The reference is
 * switched to atomic mode after a grace period, so @done also says that all
 * readers are gone that saw the old pointer.
 */
static void ublk_bpf_set_att(struct ublk_bpf_dev *bd, struct ublk_bpf_att *att,
			     bool sync)
	__must_hold(&bd->lock)
{
	struct ublk_bpf_att *old;

	old = rcu_replace_pointer(bd->att, att, lockdep_is_held(&bd->lock));
	if (!old)
		return;
	percpu_ref_kill(&old->ref);
	wait_for_completion(&old->done);
	if (sync)
		ublk_bpf_sync_files(old);
	ublk_bpf_free_att(old);
}

/* What direct I/O to a file must be aligned to, in bytes; 0 if nothing is said */
struct ublk_bpf_align {
	u32	offset;
	u32	mem;
};

static int ublk_bpf_dio_align(const struct ublk_bpf_file *f,
			      struct ublk_bpf_align *align)
{
	struct kstat stat;
	int ret;

	if (f->bdev) {
		align->offset = bdev_logical_block_size(f->bdev);
		align->mem = bdev_dma_alignment(f->bdev) + 1;
		return 0;
	}
	ret = vfs_getattr(&f->file->f_path, &stat, STATX_DIOALIGN,
			  AT_STATX_DONT_SYNC);
	if (ret)
		return ret;
	if (stat.result_mask & STATX_DIOALIGN) {
		align->offset = stat.dio_offset_align;
		align->mem = stat.dio_mem_align;
	}
	return 0;
}

/* Requests come as the device's limits allow; the file has to take them so */
static int ublk_bpf_check_file(const struct ublk_bpf_dev *bd,
			       const struct ublk_bpf_file *f)
{
	struct inode *inode = f->file->f_mapping->host;
	struct request_queue *q = bd->disk->queue;
	struct ublk_bpf_align align = {};
	int ret;

	if (!f->reg && I_BDEV(inode)->bd_disk == bd->disk)
		return -EINVAL;
	if (!f->direct)
		return 0;
	ret = ublk_bpf_dio_align(f, &align);
	if (ret)
		return ret;
	if (align.offset > queue_logical_block_size(q) ||
	    align.mem > queue_dma_alignment(q) + 1)
		return -EINVAL;
	return 0;
}

static int ublk_bpf_init_file(struct ublk_bpf_file *f, struct file *file,
			      u32 flags)
{
	struct inode *inode = file->f_mapping->host;

	f->file = file;
	f->reg = S_ISREG(inode->i_mode);
	if (!f->reg && !S_ISBLK(inode->i_mode))
		return -EINVAL;
	if (file->f_flags & O_APPEND || !file->f_op->read_iter ||
	    (file->f_mode & FMODE_WRITE && !file->f_op->write_iter))
		return -EINVAL;
	f->ki_flags = iocb_flags(file) & ~IOCB_NOWAIT;
	f->direct = f->ki_flags & IOCB_DIRECT;
	if (f->direct && !f->reg)
		f->bdev = I_BDEV(inode);
	f->inline_read = UBLK_BPF_MAY_ISSUE;
	if (!f->direct || !(file->f_mode & FMODE_NOWAIT) ||
	    flags & UBLK_BPF_ATTACH_F_NO_INLINE)
		f->inline_read = UBLK_BPF_NEVER;
	if (f->reg)
		f->inline_read |= UBLK_BPF_MAY_ENTER_FS;
	if (f->reg && !(flags & UBLK_BPF_ATTACH_F_INLINE_REG))
		f->inline_read |= UBLK_BPF_UNCLAIMED;
	f->inline_write = f->inline_read;
	if (f->reg)
		f->inline_write |= UBLK_BPF_MAY_WRITE_FILE;
	return 0;
}

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
	ret = percpu_ref_init(&att->ref, ublk_bpf_ref_release, 0, GFP_KERNEL);
	if (ret) {
		kfree(att);
		return ERR_PTR(ret);
	}
	init_completion(&att->done);
	att->bd = bd;
	att->flags = arg->flags;

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
	}
	return att;
free:
	ublk_bpf_free_att(att);
	return ERR_PTR(ret);
}

/* The first attach pays for what a device without a program does not need */
static int ublk_bpf_init_workers(struct ublk_bpf_dev *bd)
	__must_hold(&bd->lock)
{
	unsigned int i, nr = bd->disk->queue->tag_set->nr_hw_queues;

	if (bd->wq)
		return 0;
	bd->lanes = kcalloc(nr, sizeof(*bd->lanes), GFP_KERNEL);
	if (!bd->lanes)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		init_llist_head(&bd->lanes[i].list);
		INIT_WORK(&bd->lanes[i].work, ublk_bpf_lane_workfn);
	}
	bd->wq = alloc_workqueue("ublk_bpf%u", WQ_UNBOUND | WQ_MEM_RECLAIM, 0,
				 bd->dev_id);
	if (!bd->wq) {
		kfree(bd->lanes);
		bd->lanes = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int ublk_bpf_publish(struct ublk_bpf_dev *bd, struct ublk_bpf_att *att)
	__must_hold(&bd->lock)
{
	int ret;
	u32 i;

	if (!bd->disk)
		return -ENODEV;
	if (rcu_access_pointer(bd->att) &&
	    !(att->flags & UBLK_BPF_ATTACH_F_REPLACE))
		return -EBUSY;
	for (i = 0; i < att->nr_files; i++) {
		ret = ublk_bpf_check_file(bd, &att->files[i]);
		if (ret)
			return ret;
	}
	ret = ublk_bpf_init_workers(bd);
	if (ret)
		return ret;
	WRITE_ONCE(bd->nr_attach, bd->nr_attach + 1);
	ublk_bpf_set_att(bd, att, true);
	return 0;
}

static int ublk_bpf_attach(struct ublk_bpf_dev *bd,
			   const struct ublksrv_ctrl_cmd *header)
{
	struct ublk_bpf_attach arg;
	struct ublk_bpf_att *att;
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
	mutex_lock(&bd->lock);
	ret = ublk_bpf_publish(bd, att);
	mutex_unlock(&bd->lock);
	if (ret)
		ublk_bpf_free_att(att);
	return ret;
}

static int ublk_bpf_detach(struct ublk_bpf_dev *bd)
{
	int ret = -ENOENT;

	mutex_lock(&bd->lock);
	if (rcu_access_pointer(bd->att)) {
		ublk_bpf_set_att(bd, NULL, true);
		ret = 0;
	}
	mutex_unlock(&bd->lock);
	return ret;
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
	/* not under the lock: it is held while a replaced program drains */
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

	ublk_bpf_sum_stats(bd, &info);
	spin_lock_irq(&bd->last_lock);
	info.last = bd->last;
	spin_unlock_irq(&bd->last_lock);

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
	bd->stats = alloc_percpu(struct ublk_bpf_stats);
	if (!bd->stats)
		return -ENOMEM;
	mutex_init(&bd->lock);
	spin_lock_init(&bd->last_lock);
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

/* From here on programs can be attached */
void ublk_bpf_start_dev(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	mutex_lock(&bd->lock);
	bd->disk = disk;
	WRITE_ONCE(bd->pdu_bytes, disk->queue->tag_set->cmd_size);
	mutex_unlock(&bd->lock);
}
EXPORT_SYMBOL_GPL(ublk_bpf_start_dev);

/*
 * After del_gendisk(), which has waited for all I/O: do not keep the files of
 * a device that is stopped, but not deleted.
 */
void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd)
{
	mutex_lock(&bd->lock);
	bd->disk = NULL;
	ublk_bpf_set_att(bd, NULL, false);
	mutex_unlock(&bd->lock);
}
EXPORT_SYMBOL_GPL(ublk_bpf_stop_dev);

/* The last reference of the device is gone. Also if it never was initialised */
void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd)
{
	if (!bd->stats)
		return;
	if (bd->wq)
		destroy_workqueue(bd->wq);
	kfree(bd->lanes);
	free_percpu(bd->stats);
	mutex_destroy(&bd->lock);
}
EXPORT_SYMBOL_GPL(ublk_bpf_exit_dev);
