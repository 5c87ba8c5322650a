/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What ublk_drv.c calls: BPF programs that serve ublk requests in the kernel.
 */
#ifndef UBLK_BPF_H
#define UBLK_BPF_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/mempool.h>
#include <linux/spinlock.h>
#include <uapi/linux/ublk_cmd.h>
#include <uapi/linux/ublk_bpf.h>

struct ublk_bpf_att;
struct ublk_bpf_epoch;
struct ublk_bpf_home;
struct ublk_bpf_lane;
struct ublk_bpf_stats;

#ifdef CONFIG_BLK_DEV_UBLK_BPF

/**
 * struct ublk_bpf_dev - the part of a struct ublk_device
 * @epoch:	of what is attached, or NULL; readers hold RCU, writers
 *		ublk_bpf_lock
 * @stats:	counters, since the device was added
 * @active:	there is an @epoch, or FLUSHes are looked at: requests come to us
 * @stopping:	from when the device begins to be stopped until it is started
 * @has_att:	there is an @epoch
 * @sees_bios:	its program is to see bios; under ublk_bpf_lock
 * @merge:	what comes in a row is to be merged, its files do not; as @sees_bios
 * @look_at_flush: see __ublk_bpf_hold_flush()
 * @home:	its lock protects @active to @look_at_flush
 * @disk:	set from start to stop, under ublk_bpf_lock
 * @nr_hw_queues: from the first start on
 * @wq:		of works that may block for long; from the first attach on
 * @own_lane_wq: of what could otherwise wait for itself, see ublk_bpf_work.c
 * @own_slow_wq: likewise
 * @lanes:	two per hardware queue, see struct ublk_bpf_lane; as @wq
 * @bvecs:	a reserve for requests of many bios; as @wq
 * @nr_attach:	see struct ublk_bpf_info
 * @last_lock:	protects @last
 * @last:	see struct ublk_bpf_info
 * @dev_id:	N of /dev/ublkbN
 * @pdu_bytes:	see struct ublk_bpf_info
 * @node:	in the graph of devices, see ublk_bpf_file.c
 * @walk:	when a walk of the graph was here last
 * @depth:	what that has found
 * @nr_above:	files of other devices' programs that it is; as @node
 * @srcu_key:	see ublk_bpf_init_disk()
 * @elevator_key: likewise
 * @shadow:	of @disk, see ublk_bpf_intercept.c
 * @shadows:	of all disks that somebody still has open
 */
struct ublk_bpf_dev {
	struct ublk_bpf_epoch __rcu	*epoch;
	struct ublk_bpf_stats __percpu	*stats;
	bool				active;
	bool				stopping;
	bool				has_att;
	bool				sees_bios;
	bool				merge;
	bool				look_at_flush;
	struct ublk_bpf_home		*home;
	struct gendisk			*disk;
	unsigned int			nr_hw_queues;
	struct workqueue_struct		*wq;
	struct workqueue_struct		*own_lane_wq;
	struct workqueue_struct		*own_slow_wq;
	struct ublk_bpf_lane		*lanes;
	mempool_t			*bvecs;
	u64				nr_attach;
	raw_spinlock_t			last_lock;	/* @last */
	struct ublk_bpf_last_refused	last;
	u32				dev_id;
	u32				pdu_bytes;
	struct hlist_node		node;
	u64				walk;
	int				depth;
	unsigned int			nr_above;
	struct lock_class_key		srcu_key;
	struct lock_class_key		elevator_key;
	struct block_device		*shadow;
	struct hlist_head		shadows;
};

int ublk_bpf_init_dev(struct ublk_bpf_dev *bd, u32 dev_id);
void ublk_bpf_init_tag_set(struct blk_mq_tag_set *set);
void ublk_bpf_set_limits(struct queue_limits *lim);
void ublk_bpf_init_disk(struct ublk_bpf_dev *bd, struct gendisk *disk);
void ublk_bpf_start_dev(struct ublk_bpf_dev *bd, struct gendisk *disk);
void ublk_bpf_begin_stop(struct ublk_bpf_dev *bd);
void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd);
void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd);
int ublk_bpf_ctrl_cmd(struct ublk_bpf_dev *bd, u32 cmd,
		      const struct ublksrv_ctrl_cmd *header);
bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd, struct request *rq,
		       bool refuse);
struct bio *ublk_bpf_queue_bio(struct ublk_bpf_dev *bd, struct bio *bio,
			       bool refuse);
bool ublk_bpf_owns_rq(struct request *rq);
u32 __ublk_bpf_iod_flags(struct request *rq);

#ifdef UBLK_BPF_STRUCT_OPS
/* 0 if the module was built without BTF, which the kernel only warns about */
extern u64 ublk_bpf_features;
int ublk_bpf_init(void);
void ublk_bpf_exit(void);
void ublk_bpf_to_mq(struct ublk_bpf_dev *bd, struct bio *bio);
void ublk_bpf_free_disk(struct ublk_bpf_dev *bd, struct gendisk *disk);
#define UBLK_F_BPF_SUPPORTED	ublk_bpf_features
#else
#define UBLK_F_BPF_SUPPORTED	UBLK_F_BPF
#endif

/* Is the engine to see the request? REQ_DRV: it has seen its bio */
static inline bool ublk_bpf_active(const struct ublk_bpf_dev *bd,
				   const struct request *rq)
{
	return unlikely(READ_ONCE(bd->active) ||
			(rq->cmd_flags & REQ_DRV && bd->stats));
}

static inline bool ublk_bpf_stopping(const struct ublk_bpf_dev *bd)
{
	return READ_ONCE(bd->stopping);
}

/* UBLK_IO_F_BPF_* of a request that goes to the server */
static inline u32 ublk_bpf_iod_flags(struct request *rq)
{
	/* the mark of those that the engine has had before */
	return unlikely(rq->rq_flags & RQF_DONTPREP) ?
		__ublk_bpf_iod_flags(rq) : 0;
}

/* Is the engine to see bios? */
static inline bool ublk_bpf_sees_bios(const struct ublk_bpf_dev *bd)
{
	return READ_ONCE(bd->sees_bios);
}

#else /* CONFIG_BLK_DEV_UBLK_BPF */

#define UBLK_F_BPF_SUPPORTED	0

struct ublk_bpf_dev { };

static inline int ublk_bpf_init_dev(struct ublk_bpf_dev *bd, u32 dev_id)
{
	return 0;
}

static inline void ublk_bpf_init_tag_set(struct blk_mq_tag_set *set) { }
static inline void ublk_bpf_set_limits(struct queue_limits *lim) { }
static inline void ublk_bpf_init_disk(struct ublk_bpf_dev *bd,
				      struct gendisk *disk) { }
static inline void ublk_bpf_begin_stop(struct ublk_bpf_dev *bd) { }
static inline void ublk_bpf_start_dev(struct ublk_bpf_dev *bd,
				      struct gendisk *disk) { }
static inline void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd) { }
static inline void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd) { }
static inline int ublk_bpf_ctrl_cmd(struct ublk_bpf_dev *bd, u32 cmd,
				    const struct ublksrv_ctrl_cmd *header)
{
	return -EOPNOTSUPP;
}

static inline bool ublk_bpf_active(const struct ublk_bpf_dev *bd,
				   const struct request *rq)
{
	return false;
}

static inline bool ublk_bpf_stopping(const struct ublk_bpf_dev *bd)
{
	return false;
}

static inline bool ublk_bpf_sees_bios(const struct ublk_bpf_dev *bd)
{
	return false;
}

static inline bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd,
				     struct request *rq, bool refuse)
{
	return false;
}

static inline struct bio *ublk_bpf_queue_bio(struct ublk_bpf_dev *bd,
					     struct bio *bio, bool refuse)
{
	return bio;
}

static inline bool ublk_bpf_owns_rq(struct request *rq)
{
	return false;
}

static inline u32 ublk_bpf_iod_flags(struct request *rq)
{
	return 0;
}

#endif /* CONFIG_BLK_DEV_UBLK_BPF */
#endif
