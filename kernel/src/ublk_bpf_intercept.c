// SPDX-License-Identifier: GPL-2.0
/*
 * How a module sees bios before a stock kernel makes requests of them. That
 * kernel asks a block device's BD_HAS_SUBMIT_BIO, so it is set while a program
 * wants to see bios; not on partitions, whose bios become requests. What is not
 * taken goes on by way of a second struct block_device of the same disk, which
 * only says that it has no ->submit_bio: the block layer makes a request of it,
 * and when that request comes to us, its bios get back the device that they
 * were for.
 *
 * A kernel with the series has ->queue_bio() of struct blk_mq_ops, and needs
 * none of this.
 */
#include <linux/blkdev.h>
#include <linux/slab.h>
#include "ublk_bpf_int.h"

struct ublk_bpf_shadow {
	struct hlist_node	node;
	struct rcu_head		rcu;
	struct block_device	bdev;
};

/* Of each start. Waits for memory */
void ublk_bpf_init_intercept(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	struct ublk_bpf_shadow *shadow = kzalloc_obj(*shadow, GFP_KERNEL);

	WRITE_ONCE(bd->shadow, NULL);
	if (!shadow)
		return;	/* no program will see bios */
	/* of the same queue, limits, counters and names; never opened */
	memcpy(&shadow->bdev, disk->part0, sizeof(shadow->bdev));
	spin_lock_irq(&bd->home->lock);
	hlist_add_head(&shadow->node, &bd->shadows);
	spin_unlock_irq(&bd->home->lock);
	WRITE_ONCE(bd->shadow, &shadow->bdev);
}

/* Nobody has the disk open any more, so there are no bios of it */
void ublk_bpf_free_disk(struct ublk_bpf_dev *bd, struct gendisk *disk)
{
	struct ublk_bpf_shadow *shadow;
	struct hlist_node *next;

	if (!bd->home)
		return;
	spin_lock_irq(&bd->home->lock);
	hlist_for_each_entry_safe(shadow, next, &bd->shadows, node) {
		if (shadow->bdev.bd_disk != disk)
			continue;
		if (bd->shadow == &shadow->bdev)
			WRITE_ONCE(bd->shadow, NULL);
		hlist_del(&shadow->node);
		kfree_rcu(shadow, rcu);
	}
	spin_unlock_irq(&bd->home->lock);
}

bool ublk_bpf_can_intercept(const struct ublk_bpf_dev *bd)
{
	return READ_ONCE(bd->shadow);
}

void ublk_bpf_intercept(struct ublk_bpf_dev *bd, bool on)
{
	if (on)
		bdev_set_flag(bd->disk->part0, BD_HAS_SUBMIT_BIO);
	else
		bdev_clear_flag(bd->disk->part0, BD_HAS_SUBMIT_BIO);
}

/*
 * Below ->submit_bio() it goes to the list of bios that come next, by hand: it
 * has been checked, throttled and counted already, and would be once more.
 */
static void ublk_bpf_resubmit(struct bio *bio)
{
	if (current->bio_list)
		bio_list_add(&current->bio_list[0], bio);
	else
		submit_bio_noacct(bio);
}

/* Of a partition that was added meanwhile, and has the flag of its disk */
static void ublk_bpf_partition_to_mq(struct bio *bio)
{
	bdev_clear_flag(bio->bi_bdev, BD_HAS_SUBMIT_BIO);
	ublk_bpf_resubmit(bio);
}

/* A bio of which the block layer is to make a request */
void ublk_bpf_to_mq(struct ublk_bpf_dev *bd, struct bio *bio)
{
	struct gendisk *disk = bio->bi_bdev->bd_disk;
	struct block_device *shadow;
	bool ours;

	if (unlikely(bdev_is_partition(bio->bi_bdev))) {
		ublk_bpf_partition_to_mq(bio);
		return;
	}
	rcu_read_lock();
	shadow = READ_ONCE(bd->shadow);
	ours = shadow && shadow->bd_disk == disk;
	rcu_read_unlock();
	/* one that has been stopped, and started as another disk */
	if (unlikely(!ours)) {
		bio_io_error(bio);
		return;
	}
	/* the device may have been resized */
	WRITE_ONCE(shadow->bd_nr_sectors,
		   READ_ONCE(disk->part0->bd_nr_sectors));
	/* so that we are asked when it is a request, whatever is attached then */
	bio->bi_opf |= REQ_DRV;
	/* not bio_set_dev(): it stays with the same queue's blkcg */
	bio->bi_bdev = shadow;
	ublk_bpf_resubmit(bio);
}
EXPORT_SYMBOL_GPL(ublk_bpf_to_mq);

/* What has become a request */
void ublk_bpf_leave_intercept(struct ublk_bpf_dev *bd, struct request *rq)
{
	struct block_device *part0 = rq->q->disk->part0;
	struct bio *bio;

	if (likely(!(rq->cmd_flags & REQ_DRV)))
		return;
	if (rq->part == bd->shadow)
		rq->part = part0;
	__rq_for_each_bio(bio, rq)
		if (bio->bi_bdev == bd->shadow)
			bio->bi_bdev = part0;
}
