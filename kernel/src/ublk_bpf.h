/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What ublk_drv.c calls: BPF programs that serve ublk requests in the kernel.
 */
#ifndef UBLK_BPF_H
#define UBLK_BPF_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <uapi/linux/ublk_cmd.h>
#include <uapi/linux/ublk_bpf.h>

struct ublk_bpf_att;
struct ublk_bpf_home;
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
 * @att:	what is attached; readers hold RCU, writers ublk_bpf_lock
 * @stats:	counters, since the device was added
 * @active:	there is an @att, or FLUSHes are looked at: requests come to us
 * @stopping:	from when the device begins to be stopped until it is started
 * @has_att:	there is an @att
 * @look_at_flush: see __ublk_bpf_hold_flush()
 * @home:	its lock protects @active to @look_at_flush
 * @disk:	set from start to stop, under ublk_bpf_lock
 * @srcu:	of the queue, from the first start on
 * @nr_hw_queues: likewise
 * @wq:		of works that may block for long; from the first attach on
 * @own_wq:	of what could otherwise wait for itself, see ublk_bpf_work.c
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
 */
struct ublk_bpf_dev {
	struct ublk_bpf_att __rcu	*att;
	struct ublk_bpf_stats __percpu	*stats;
	bool				active;
	bool				stopping;
	bool				has_att;
	bool				look_at_flush;
	struct ublk_bpf_home		*home;
	struct gendisk			*disk;
	struct srcu_struct		*srcu;
	unsigned int			nr_hw_queues;
	struct workqueue_struct		*wq;
	struct workqueue_struct		*own_wq;
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
};

int ublk_bpf_init_dev(struct ublk_bpf_dev *bd, u32 dev_id);
void ublk_bpf_init_tag_set(struct blk_mq_tag_set *set);
void ublk_bpf_set_limits(struct queue_limits *lim);
void ublk_bpf_start_dev(struct ublk_bpf_dev *bd, struct gendisk *disk);
void ublk_bpf_begin_stop(struct ublk_bpf_dev *bd);
void ublk_bpf_stop_dev(struct ublk_bpf_dev *bd);
void ublk_bpf_exit_dev(struct ublk_bpf_dev *bd);
int ublk_bpf_ctrl_cmd(struct ublk_bpf_dev *bd, u32 cmd,
		      const struct ublksrv_ctrl_cmd *header);
bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd, struct request *rq,
		       struct ublk_bpf_batch *batch, bool refuse);
void __ublk_bpf_end_batch(struct ublk_bpf_batch *batch);
bool ublk_bpf_owns_rq(struct request *rq);

#ifdef UBLK_BPF_STRUCT_OPS
/* 0 if the module was built without BTF, which the kernel only warns about */
extern u64 ublk_bpf_features;
int ublk_bpf_init(void);
void ublk_bpf_exit(void);
#define UBLK_F_BPF_SUPPORTED	ublk_bpf_features
#else
#define UBLK_F_BPF_SUPPORTED	UBLK_F_BPF
#endif

/* Is the engine to see requests? */
static inline bool ublk_bpf_active(const struct ublk_bpf_dev *bd)
{
	return unlikely(READ_ONCE(bd->active));
}

static inline bool ublk_bpf_stopping(const struct ublk_bpf_dev *bd)
{
	return READ_ONCE(bd->stopping);
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
static inline void ublk_bpf_set_limits(struct queue_limits *lim) { }
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

static inline bool ublk_bpf_active(const struct ublk_bpf_dev *bd)
{
	return false;
}

static inline bool ublk_bpf_stopping(const struct ublk_bpf_dev *bd)
{
	return false;
}

static inline bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd,
				     struct request *rq,
				     struct ublk_bpf_batch *batch, bool refuse)
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
