/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What ublk_drv.c calls: BPF programs that serve ublk requests in the kernel.
 */
#ifndef UBLK_BPF_H
#define UBLK_BPF_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <uapi/linux/ublk_cmd.h>
#include <uapi/linux/ublk_bpf.h>

struct ublk_bpf_att;
struct ublk_bpf_lane;
struct ublk_bpf_stats;

/**
 * struct ublk_bpf_batch - what is shared by the requests of one ->queue_rqs()
 * @rqs:	those to come, or NULL: there is but one
 * @outer:	current->plug, detached while requests are issued
 * @plug:	takes what is issued, if there are @rqs
 * @lane:	collects what is completed meanwhile, or NULL
 * @noio:	of memalloc_noio_save()
 * @nr:		requests that the backing has not been told of
 * @may:	see enum ublk_bpf_may, 0 as long as nobody asked
 * @open:	@outer to @nr are valid
 *
 * On the stack, see ublk_bpf_init_batch(). Nothing may sleep for long while it is
 * open.
 */
struct ublk_bpf_batch {
	struct rq_list		*rqs;
	struct blk_plug		*outer;
	struct blk_plug		plug;
	struct ublk_bpf_lane	*lane;
	unsigned int		noio;
	unsigned int		nr;
	u8			may;
	bool			open;
};

static inline void ublk_bpf_init_batch(struct ublk_bpf_batch *batch,
				       struct rq_list *rqs)
{
	batch->rqs = rqs;
	batch->may = 0;
	batch->open = false;
}

#ifdef CONFIG_BLK_DEV_UBLK_BPF

/**
 * struct ublk_bpf_dev - the part of a struct ublk_device
 * @att:	what is attached; readers hold RCU, writers @lock
 * @stats:	counters, since the device was added
 * @lock:	serialises attach, detach, start and stop
 * @disk:	set from start to stop
 * @wq:		from the first attach on
 * @lanes:	one per hardware queue, from the first attach on
 * @nr_attach:	see struct ublk_bpf_info
 * @last_lock:	protects @last
 * @last:	see struct ublk_bpf_info
 * @dev_id:	N of /dev/ublkbN
 * @pdu_bytes:	see struct ublk_bpf_info
 */
struct ublk_bpf_dev {
	struct ublk_bpf_att __rcu	*att;
	struct ublk_bpf_stats __percpu	*stats;
	struct mutex			lock;	/* attach, detach, start, stop */
	struct gendisk			*disk;
	struct workqueue_struct		*wq;
	struct ublk_bpf_lane		*lanes;
	u64				nr_attach;
	spinlock_t			last_lock;	/* @last */
	struct ublk_bpf_last_refused	last;
	u32				dev_id;
	u32				pdu_bytes;
};

int ublk_bpf_init_dev(struct ublk_bpf_dev *bd, u32 dev_id);
void ublk_bpf_init_tag_set(struct blk_mq_tag_set *set);
void ublk_bpf_start_dev(struct ublk_bpf_dev *bd, struct gendisk *disk);
void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd);
void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd);
int ublk_bpf_ctrl_cmd(struct ublk_bpf_dev *bd, u32 cmd,
		      const struct ublksrv_ctrl_cmd *header);
bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd, struct request *rq,
		       struct ublk_bpf_batch *batch);
void __ublk_bpf_end_batch(struct ublk_bpf_batch *batch);
bool ublk_bpf_owns_rq(struct request *rq);

#ifdef UBLK_BPF_STRUCT_OPS
/* 0 if the module was built without BTF, which the kernel only warns about */
extern u64 ublk_bpf_features;
int ublk_bpf_init(void);
#define UBLK_F_BPF_SUPPORTED	ublk_bpf_features
#else
#define UBLK_F_BPF_SUPPORTED	UBLK_F_BPF
#endif

static inline bool ublk_bpf_attached(struct ublk_bpf_dev *bd)
{
	return unlikely(rcu_access_pointer(bd->att));
}

static inline void ublk_bpf_end_batch(struct ublk_bpf_batch *batch)
{
	if (unlikely(batch->open))
		__ublk_bpf_end_batch(batch);
}

#else /* CONFIG_BLK_DEV_UBLK_BPF */

#define UBLK_F_BPF_SUPPORTED	0

struct ublk_bpf_dev { };

static inline int ublk_bpf_init_dev(struct ublk_bpf_dev *bd, u32 dev_id)
{
	return 0;
}

static inline void ublk_bpf_init_tag_set(struct blk_mq_tag_set *set) { }
static inline void ublk_bpf_start_dev(struct ublk_bpf_dev *bd,
				      struct gendisk *disk) { }
static inline void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd) { }
static inline void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd) { }
static inline int ublk_bpf_ctrl_cmd(struct ublk_bpf_dev *bd, u32 cmd,
				    const struct ublksrv_ctrl_cmd *header)
{
	return -EOPNOTSUPP;
}

static inline bool ublk_bpf_attached(struct ublk_bpf_dev *bd)
{
	return false;
}

static inline bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd,
				     struct request *rq,
				     struct ublk_bpf_batch *batch)
{
	return false;
}

static inline void ublk_bpf_end_batch(struct ublk_bpf_batch *batch) { }

static inline bool ublk_bpf_owns_rq(struct request *rq)
{
	return false;
}

#endif /* CONFIG_BLK_DEV_UBLK_BPF */
#endif
