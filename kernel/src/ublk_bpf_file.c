// SPDX-License-Identifier: GPL-2.0
/*
 * Which files can be attached to a device: what they need for direct I/O, and
 * that no request comes back to the device that it came from.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/stat.h>
#include "ublk_bpf_int.h"

/* before 6.14 what reads need is what writes need */
#ifdef STATX_DIO_READ_ALIGN
#define UBLK_BPF_STATX	(STATX_DIOALIGN | STATX_DIO_READ_ALIGN)
static u32 ublk_bpf_read_align(const struct kstat *stat)
{
	return stat->result_mask & STATX_DIO_READ_ALIGN ?
		stat->dio_read_offset_align : stat->dio_offset_align;
}
#else
#define UBLK_BPF_STATX	STATX_DIOALIGN
static u32 ublk_bpf_read_align(const struct kstat *stat)
{
	return stat->dio_offset_align;
}
#endif

/*
 * What direct I/O of the file must be aligned to. Writes may need more than
 * reads: XFS writes shared extents elsewhere, and only whole blocks.
 */
static int ublk_bpf_init_align(struct ublk_bpf_file *f)
{
	u32 read = 0, write = 0, mem = 0;
	struct kstat stat;
	int ret;

	if (f->bdev) {
		read = bdev_logical_block_size(f->bdev);
		write = read;
		mem = bdev_dma_alignment(f->bdev) + 1;
	} else {
		ret = vfs_getattr(&f->file->f_path, &stat, UBLK_BPF_STATX,
				  AT_STATX_DONT_SYNC);
		if (ret)
			return ret;
		if (stat.result_mask & STATX_DIOALIGN) {
			read = ublk_bpf_read_align(&stat);
			write = stat.dio_offset_align;
			mem = stat.dio_mem_align;
		}
	}
	f->read_mask = max(read, SECTOR_SIZE) - 1;
	f->write_mask = max(write, SECTOR_SIZE) - 1;
	f->mem_mask = mem ? mem - 1 : 0;
	return 0;
}

/* Do requests come as direct I/O of the file needs them? */
static bool ublk_bpf_fits(const struct ublk_bpf_file *f,
			  const struct request_queue *q)
{
	const u32 mask = f->file->f_mode & FMODE_WRITE ?
		f->read_mask | f->write_mask : f->read_mask;

	return mask < queue_logical_block_size(q) &&
		f->mem_mask <= queue_dma_alignment(q);
}

/* Does the block device's I/O need works, maybe ours, or other threads? */
static bool ublk_bpf_stacked(struct block_device *bdev)
{
	struct request_queue *q = bdev_get_queue(bdev);

	return bdev->bd_disk->fops->submit_bio ||
		(queue_is_mq(q) && q->tag_set->flags & BLK_MQ_F_BLOCKING);
}

static bool ublk_bpf_no_atime(const struct file *file)
{
	return file->f_flags & O_NOATIME || IS_NOATIME(file_inode(file)) ||
		file->f_path.mnt->mnt_flags & MNT_NOATIME;
}

/* What a submitter's context has to allow */
static void ublk_bpf_init_inline(struct ublk_bpf_file *f, u32 flags)
{
	u8 needs = UBLK_BPF_MAY_ISSUE;

	/* a buffered read of a block device waits for its inode's lock */
	if (!(f->file->f_mode & FMODE_NOWAIT) || (!f->direct && !f->reg) ||
	    flags & UBLK_BPF_ATTACH_F_NO_INLINE)
		needs = UBLK_BPF_NEVER;
	if (f->reg)
		needs |= UBLK_BPF_MAY_ENTER_FS;
	f->inline_read = needs;
	f->inline_write = needs;
	if (f->reg && !(flags & UBLK_BPF_ATTACH_F_INLINE_REG)) {
		/* to note the time of access takes a transaction */
		f->inline_read |= ublk_bpf_no_atime(f->file) ?
			UBLK_BPF_MAY_READ_FILE : UBLK_BPF_UNCLAIMED;
		f->inline_write |= UBLK_BPF_UNCLAIMED;
	}
	if (f->reg)
		f->inline_write |= UBLK_BPF_MAY_WRITE_FILE;
	/* reads take what is in the page cache */
	if (!f->direct)
		f->inline_write |= UBLK_BPF_NEVER;
}

/* @file is @f's from here on, also if this fails. May wait for a file system */
int ublk_bpf_init_file(struct ublk_bpf_file *f, struct file *file, u32 flags)
{
	struct inode *inode = file->f_mapping->host;

	f->file = file;
	f->reg = S_ISREG(inode->i_mode);
	if (!f->reg && !S_ISBLK(inode->i_mode))
		return -EINVAL;
	/* what has no file system behind it is a regular file by name only */
	if (f->reg && IS_ANON_FILE(inode))
		return -EINVAL;
	if (file->f_flags & O_APPEND || !file->f_op->read_iter ||
	    (file->f_mode & FMODE_WRITE && !file->f_op->write_iter))
		return -EINVAL;
	f->ki_flags = iocb_flags(file) & ~IOCB_NOWAIT;
	f->direct = f->ki_flags & IOCB_DIRECT;
	if (f->direct && !f->reg)
		f->bdev = I_BDEV(inode);
	f->stacked = !f->reg && ublk_bpf_stacked(I_BDEV(inode));
	ublk_bpf_init_inline(f, flags);
	return f->direct ? ublk_bpf_init_align(f) : 0;
}

/* Must the memory of a write to the file not change while it is under way? */
static bool ublk_bpf_needs_stable(const struct ublk_bpf_file *f)
{
	struct address_space *mapping = f->file->f_mapping;

	/* a buffered write copies it first */
	if (!f->direct || !(f->file->f_mode & FMODE_WRITE))
		return false;
	return f->bdev ? bdev_stable_writes(f->bdev) :
			 mapping_stable_writes(mapping);
}

/*
 * The device's page cache has to promise it too. Who has it open has looked
 * already, and may count on that it need not. We hold a lock for which others
 * wait, so wait for none that is held while the device's I/O is waited for.
 */
static int ublk_bpf_make_stable(struct gendisk *disk)
{
	struct block_device *part;
	struct queue_limits lim;
	unsigned long idx;
	int ret = -ETXTBSY;

	if (bdev_stable_writes(disk->part0))
		return 0;
	if (!mutex_trylock(&disk->open_mutex))
		return ret;
	if (disk_openers(disk) || !mutex_trylock(&disk->queue->limits_lock))
		goto unlock;
	lim = disk->queue->limits;
	lim.features |= BLK_FEAT_STABLE_WRITES;
	/* unlocks it */
	ret = queue_limits_commit_update(disk->queue, &lim);
	if (ret)
		goto unlock;
	xa_for_each(&disk->part_tbl, idx, part)
		mapping_set_stable_writes(part->bd_mapping);
unlock:
	mutex_unlock(&disk->open_mutex);
	return ret;
}

/*
 * The graph: devices that are started, and what their programs' files are on.
 * All of it is protected by ublk_bpf_lock, and so is what is attached. It has
 * no rings, and no path of more than UBLK_BPF_MAX_DEPTH devices.
 */
static DEFINE_HASHTABLE(ublk_bpf_graph, 8);	/* struct ublk_bpf_dev */
static u64 ublk_bpf_walks;

void ublk_bpf_enter_graph(struct ublk_bpf_dev *bd)
{
	hash_add(ublk_bpf_graph, &bd->node, (unsigned long)bd->disk);
}

void ublk_bpf_leave_graph(struct ublk_bpf_dev *bd)
{
	hash_del(&bd->node);
}

/* The device that a file is, or is stored on, if that is one of ours */
static struct ublk_bpf_dev *ublk_bpf_below(const struct ublk_bpf_file *f)
	__must_hold(&ublk_bpf_lock)
{
	struct inode *inode = f->file->f_mapping->host;
	struct block_device *bdev = f->reg ? inode->i_sb->s_bdev :
					     I_BDEV(inode);
	struct ublk_bpf_dev *bd;

	if (!bdev)
		return NULL;
	hash_for_each_possible(ublk_bpf_graph, bd, node,
			       (unsigned long)bdev->bd_disk)
		if (bd->disk == bdev->bd_disk)
			return bd;
	return NULL;
}

/*
 * An attachment that is published: I/O of the devices below comes with whatever
 * the submitters of this one hold. Its files keep these devices.
 */
void ublk_bpf_be_above(struct ublk_bpf_att *att)
	__must_hold(&ublk_bpf_lock)
{
	u32 i;

	for (i = 0; i < att->nr_files; i++) {
		struct ublk_bpf_dev *below = ublk_bpf_below(&att->files[i]);

		att->files[i].below = below;
		if (below)
			WRITE_ONCE(below->nr_above, below->nr_above + 1);
	}
}

/* Before its files are let go */
void ublk_bpf_be_gone(struct ublk_bpf_att *att)
	__must_hold(&ublk_bpf_lock)
{
	u32 i;

	for (i = 0; i < att->nr_files; i++) {
		struct ublk_bpf_dev *below = att->files[i].below;

		if (below)
			WRITE_ONCE(below->nr_above, below->nr_above - 1);
	}
}

struct ublk_bpf_walk {
	const struct ublk_bpf_dev *top;		/* gets */
	const struct ublk_bpf_att *att;		/* this */
};

static int ublk_bpf_depth(struct ublk_bpf_dev *bd,
			  const struct ublk_bpf_walk *walk);

/* How many devices there are below an attachment, or an error */
static int ublk_bpf_depth_below(const struct ublk_bpf_att *att,
				const struct ublk_bpf_walk *walk)
	__must_hold(&ublk_bpf_lock)
{
	int ret, depth = 0;
	u32 i;

	for (i = 0; att && i < att->nr_files; i++) {
		struct ublk_bpf_dev *below = ublk_bpf_below(&att->files[i]);

		ret = below ? ublk_bpf_depth(below, walk) : 0;
		if (ret < 0)
			return ret;
		depth = max(depth, ret);
	}
	return depth;
}

/*
 * How many devices there are from this one on downwards. What this walk has
 * been to, and what has no depth yet, is above. What was replaced counts until
 * it is synced: FLUSHes wait for that.
 */
static int ublk_bpf_depth(struct ublk_bpf_dev *bd,
			  const struct ublk_bpf_walk *walk)
	__must_hold(&ublk_bpf_lock)
{
	const struct ublk_bpf_att *att;
	int ret, depth;

	if (bd->walk == ublk_bpf_walks)
		return bd->depth ?: -ELOOP;
	bd->walk = ublk_bpf_walks;
	bd->depth = 0;
	att = ublk_bpf_get_att(bd);
	depth = ublk_bpf_depth_below(att, walk);
	if (depth >= 0 && bd == walk->top) {
		ret = ublk_bpf_depth_below(walk->att, walk);
		depth = ret < 0 ? ret : max(depth, ret);
	}
	list_for_each_entry(att, &bd->home->owed, owed) {
		if (depth < 0)
			break;
		ret = ublk_bpf_depth_below(att, walk);
		depth = ret < 0 ? ret : max(depth, ret);
	}
	if (depth < 0)
		return depth;
	if (depth >= UBLK_BPF_MAX_DEPTH)
		return -ELOOP;
	bd->depth = depth + 1;
	return bd->depth;
}

/* Would the graph still be one without rings, and not too deep? */
static int ublk_bpf_check_graph(const struct ublk_bpf_dev *top,
				const struct ublk_bpf_att *att)
	__must_hold(&ublk_bpf_lock)
{
	const struct ublk_bpf_walk walk = { .top = top, .att = att };
	struct ublk_bpf_dev *bd;
	bool below = false;
	int ret, bucket;
	u32 i;

	for (i = 0; i < att->nr_files; i++)
		if (ublk_bpf_below(&att->files[i]))
			below = true;
	if (!below)
		return 0;
	ublk_bpf_walks++;
	hash_for_each(ublk_bpf_graph, bucket, bd, node) {
		ret = ublk_bpf_depth(bd, &walk);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Requests come as the device's limits allow; the files have to take them so */
int ublk_bpf_check_files(const struct ublk_bpf_dev *bd,
			 const struct ublk_bpf_att *att)
	__must_hold(&ublk_bpf_lock)
{
	struct request_queue *q = bd->disk->queue;
	bool stable = false;
	int ret;
	u32 i;

	for (i = 0; i < att->nr_files; i++) {
		const struct ublk_bpf_file *f = &att->files[i];

		if (f->direct && !ublk_bpf_fits(f, q))
			return -EINVAL;
		stable |= ublk_bpf_needs_stable(f);
	}
	ret = ublk_bpf_check_graph(bd, att);
	if (!ret && stable)
		ret = ublk_bpf_make_stable(bd->disk);
	return ret;
}
