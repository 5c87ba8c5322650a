/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the parts of the engine. ublk_bpf.c attaches, _file.c says which
 * files can be attached, _retire.c lets go of what was replaced, _work.c has the
 * workers. _queue.c is where requests come in, and go out, _plan.c checks what
 * the program plans, _exec.c, _inline.c and _bio.c execute it, _complete.c asks
 * the completion program. _prog_type.c or _struct_ops.c makes programs known to
 * the verifier. A stock kernel needs _intercept.c for bios.
 */
#ifndef UBLK_BPF_INT_H
#define UBLK_BPF_INT_H

#include <linux/bio.h>
#include <linux/bpf.h>
#include <linux/completion.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/overflow.h>
#include <linux/percpu-refcount.h>
#include <linux/refcount.h>
#include <linux/workqueue.h>
#include <uapi/linux/io_uring.h>
#include "ublk_bpf.h"

struct mem_cgroup;

#define UBLK_BPF_RW_FLAGS	(RWF_DSYNC | RWF_SYNC)

/**
 * enum ublk_bpf_may - what a submitter's context allows
 * @UBLK_BPF_MAY_ISSUE:		there is stack, and it does not reclaim memory
 * @UBLK_BPF_MAY_ENTER_FS:	it is in no transaction of a file system
 * @UBLK_BPF_MAY_WRITE_FILE:	its files may be of any size
 * @UBLK_BPF_MAY_READ_FILE:	it holds nothing that a read of a file could want
 * @UBLK_BPF_UNCLAIMED:		nor a write, see ublk_bpf_unclaimed()
 * @UBLK_BPF_NEVER:		never set
 */
enum ublk_bpf_may {
	UBLK_BPF_MAY_ISSUE	= 1 << 0,
	UBLK_BPF_MAY_ENTER_FS	= 1 << 1,
	UBLK_BPF_MAY_WRITE_FILE	= 1 << 2,
	UBLK_BPF_MAY_READ_FILE	= 1 << 3,
	UBLK_BPF_UNCLAIMED	= 1 << 4,
	UBLK_BPF_NEVER		= 1 << 5,
};

/**
 * struct ublk_bpf_file - one file of an attachment
 * @file:	referenced
 * @bdev:	of a block device that is open for direct I/O, else NULL
 * @ki_flags:	of a kiocb for it. Taken once: F_SETFL may change the file's
 * @read_mask:	of a READ: bits that are clear in offset and length
 * @write_mask:	the same of a WRITE
 * @mem_mask:	the same of the memory of direct I/O
 * @below:	what it is, or is stored on, if that is one of ours
 * @reg:	a regular file, not a block device
 * @direct:	open for direct I/O
 * @stacked:	a block device whose I/O may wait for somebody's work
 * @inline_read:	what a READ in the submitter's context needs, enum ublk_bpf_may
 * @inline_write:	the same of a WRITE
 */
struct ublk_bpf_file {
	struct file	*file;
	struct block_device *bdev;
	int		ki_flags;
	u32		read_mask;
	u32		write_mask;
	u32		mem_mask;
	struct ublk_bpf_dev *below;
	bool		reg;
	bool		direct;
	bool		stacked;
	u8		inline_read;
	u8		inline_write;
};

/**
 * struct ublk_bpf_epoch - the requests that were planned between two drains
 * @ref:	one per request that is being planned or executed
 * @att:	what is attached: the same for all epochs of an attachment
 * @node:	in @att's list, from when it is published until it is done
 * @gone:	the last @ref is; under @att's lock
 * @done:	so are those of all epochs before it
 * @users:	whoever publishes it, and whoever waits for @done
 * @rcu:	readers that failed to get a reference may still look at @ref
 */
struct ublk_bpf_epoch {
	struct percpu_ref	ref;
	struct ublk_bpf_att	*att;
	struct list_head	node;
	bool			gone;
	struct completion	done;
	refcount_t		users;
	struct rcu_head		rcu;
};

/**
 * struct ublk_bpf_att - a program and its files, attached to a device
 * @prog:	referenced
 * @complete:	the completion program, referenced, or NULL
 * @bd:		the device. Requests keep it, not the attachment: of no use to
 *		@retire, which uses @home
 * @lock:	protects @epochs
 * @epochs:	those that are not done, oldest first
 * @home:	referenced from when it is published
 * @retire:	queued when the last of @epochs is done
 * @retired:	@retire is done with the files
 * @users:	@retire, and the command that waits for it
 * @sync_error:	0, or why its files could not be synced. Valid once @retired
 * @owed:	in @home's list, under its lock and ublk_bpf_lock
 * @owed_no:	counts what the device has replaced, from 1
 * @written:	bit per file: written since it was attached
 * @flags:	UBLK_BPF_ATTACH_F_*
 * @nr_files:	valid entries of @files
 * @durable:	the device has no volatile cache: each write is durable when it
 *		completes
 * @forget:	do not sync the files: no FLUSH will come
 * @stacked:	one of @files is
 * @rescued:	none of @files enters a file system, and none is stacked
 * @reg:	all @files are regular
 * @files:	what SQEs index
 */
struct ublk_bpf_att {
	struct bpf_prog		*prog;
	struct bpf_prog		*complete;
	struct ublk_bpf_dev	*bd;
	u32			flags;
	u32			nr_files;
	unsigned long		written;
	bool			durable;
	bool			forget;
	bool			stacked;
	bool			rescued;
	bool			reg;
	struct ublk_bpf_file	files[UBLK_BPF_MAX_FILES];
	struct ublk_bpf_home	*home;
	spinlock_t		lock;	/* @epochs */
	struct list_head	epochs;
	struct work_struct	retire;
	struct completion	retired;
	refcount_t		users;
	struct list_head	owed;
	u64			owed_no;
	int			sync_error;
};

/**
 * struct ublk_bpf_home - what replaced attachments and their device share. The
 *			  former may outlive the latter
 * @lock:	protects all but @users
 * @bd:		NULL when the device is gone
 * @owed:	replaced attachments whose files are not synced, oldest first.
 *		Changed under ublk_bpf_lock, too: either is enough to read it
 * @held:	FLUSHes that wait for them, by ->queuelist
 * @last_no:	->owed_no of the youngest that ever was
 * @nr_owed:	length of @owed
 * @nr_released: FLUSHes that have waited, and are on their way back to us
 * @sync_failed: syncs that have failed
 * @sync_reported: of these, how many FLUSHes know of
 * @sync_error:	of the last that failed, negative
 * @users:	the device, and attachments that were published
 */
struct ublk_bpf_home {
	spinlock_t		lock;	/* see above */
	struct ublk_bpf_dev	*bd;
	struct list_head	owed;
	struct list_head	held;
	u64			last_no;
	u32			nr_owed;
	u32			nr_released;
	u32			sync_failed;
	u32			sync_reported;
	int			sync_error;
	refcount_t		users;
};

/**
 * struct ublk_bpf_lane - of one hardware queue: SQEs that a worker issues
 * @list:	of struct ublk_bpf_sqe, newest first
 * @work:	queued by whoever finds the list empty
 *
 * A hardware queue has two: for files, and for block devices. They belong to
 * the device: a work that has issued an attachment's last SQE outlives it.
 */
struct ublk_bpf_lane {
	struct llist_head	list;
	struct work_struct	work;
} ____cacheline_aligned_in_smp;

/* State of a worker while it does I/O for a device that may be swapped to */
struct ublk_bpf_worker {
	unsigned int			noio;
	unsigned int			throttle;
	struct cgroup_subsys_state	*blkcg;
};

/* counters, per CPU; see struct ublk_bpf_info. @more_sqes: beyond one a plan */
struct ublk_bpf_stats {
	u64	redirected;
	u64	passed;
	u64	dropped;
	u64	aborted;
	u64	failed;
	u64	more_sqes;
	u64	deferred;
	u64	bios;
	u64	rounds;
	u64	passed_late;
	u64	errors_passed;
	u64	retries;
	u64	refused[UBLK_BPF_NR_REFUSED];
};

/**
 * struct ublk_bpf_sqe - one SQE of a plan
 * @iocb:	while a READ or WRITE is in flight, except as a bio
 * @work:	while a worker is to do what may block for long
 * @node:	while it is on a lane
 * @off:	in the file, bytes
 * @len:	bytes
 * @data_off:	in the request's data, bytes
 * @done:	of @len, bytes
 * @ret:	what @iocb came to
 * @ref:	of @iocb: whoever issues it, and its completion
 * @op_flags:	RWF_*, IORING_FSYNC_* or FALLOC_FL_*
 * @opcode:	IORING_OP_*, the _FIXED ones as their plain twins
 * @fd:		index in the attachment's files
 * @idx:	index in the plan
 * @link:	IOSQE_IO_LINK, and not the last one
 *
 * From its issue until it is done, an SQE holds a reference of its request,
 * also while it waits for a worker: nothing of the union's members outlives it.
 */
struct ublk_bpf_sqe {
	union {
		struct kiocb		iocb;
		struct work_struct	work;
		struct llist_node	node;
	};
	u64	off;
	u64	len;
	int	ret;
	u32	data_off;
	u32	done;
	u32	op_flags;
	atomic_t ref;
	u8	opcode;
	u8	fd;
	u8	idx;
	bool	link;
};

/**
 * enum ublk_bpf_server - why a request goes to the server without being planned
 * @UBLK_BPF_ASK:	it does not: the program is to see it
 * @UBLK_BPF_PASSED:	the program has seen its bio, and passed it
 * @UBLK_BPF_PASSED_LATE: the completion program has
 * @UBLK_BPF_FAILED:	its plan has failed
 */
enum ublk_bpf_server {
	UBLK_BPF_ASK,
	UBLK_BPF_PASSED,
	UBLK_BPF_PASSED_LATE,
	UBLK_BPF_FAILED,
};

/**
 * struct ublk_bpf_req - a request of ours. The end of a request's driver data,
 *			 or of a bio of which no request was made
 * @att:	set while a plan is executed, see ublk_bpf_owns_rq()
 * @epoch:	of @att, referenced
 * @rq:		the request, or NULL
 * @bio:	its first, or the bio itself; NULL if there is no data
 * @bvec:	all the request's, if it has many bios
 * @nr_bvec:	of @bvec
 * @bytes:	length
 * @opf:	operation and flags
 * @ref:	if the plan has many SQEs: those not done, and whoever issues them
 * @error:	the first one of the plan, 0 or negative
 * @start:	of a bio, for accounting; 0 if it is not accounted
 * @user_data:	of the first SQE
 * @held_no:	it waits for what has this ->owed_no, or a lower one
 * @failed:	bit per SQE of the plan
 * @nr:		SQEs of the plan
 * @round:	plans that were executed
 * @server:	enum ublk_bpf_server, valid if the request has RQF_DONTPREP
 * @refused:	an SQE was refused
 * @bvec_pool:	@bvec is of the device's reserve
 * @released:	a FLUSH that was held, and need not be again
 * @split:	the first part of a bio; valid if there is no @rq
 * @sqes:	the plan
 * @bios:	of the first SQEs, see ublk_bpf_nr_bios()
 */
struct ublk_bpf_req {
	struct ublk_bpf_att	*att;
	struct ublk_bpf_epoch	*epoch;
	struct request		*rq;
	struct bio		*bio;
	struct bio_vec		*bvec;
	unsigned int		nr_bvec;
	unsigned int		bytes;
	blk_opf_t		opf;
	atomic_t		ref;
	int			error;
	unsigned long		start;
	u64			user_data;
	u64			held_no;
	unsigned long		failed;
	u8			nr;
	u8			round;
	u8			server;
	bool			refused;
	bool			bvec_pool;
	bool			released;
	bool			split;
	struct ublk_bpf_sqe	sqes[UBLK_BPF_MAX_SQES];
	struct bio		bios[];
};

/*
 * There is one for each tag of each device, of which most are never used, but
 * only as many of bios as are in flight.
 */
#define UBLK_BPF_RQ_BIOS	1
#define UBLK_BPF_PDU_SIZE	\
	struct_size_t(struct ublk_bpf_req, bios, UBLK_BPF_RQ_BIOS)

/* SQEs of a plan that can be bios; the others go through files' operations */
static inline unsigned int ublk_bpf_nr_bios(const struct ublk_bpf_req *req)
{
	return req->rq ? UBLK_BPF_RQ_BIOS : UBLK_BPF_MAX_SQES;
}

/**
 * struct ublk_bpf_ctx_kern - what a program runs on
 * @ctx:	first, all that a program knows
 * @req:	the request
 * @att:	referenced
 *
 * The pointers have a second use: to the verifier, any memory is a good
 * argument for a struct that has but scalars.
 */
struct ublk_bpf_ctx_kern {
	struct ublk_bpf_ctx	ctx;
	struct ublk_bpf_req	*req;
	struct ublk_bpf_att	*att;
};

static inline struct ublk_bpf_req *ublk_bpf_sqe_req(struct ublk_bpf_sqe *s)
{
	return container_of(s - s->idx, struct ublk_bpf_req, sqes[0]);
}

static inline struct ublk_bpf_file *
ublk_bpf_sqe_file(const struct ublk_bpf_req *req, const struct ublk_bpf_sqe *s)
{
	return &req->att->files[s->fd];
}

static inline bool ublk_bpf_is_rw(const struct ublk_bpf_sqe *s)
{
	return s->opcode == IORING_OP_READ || s->opcode == IORING_OP_WRITE;
}

static inline enum req_op ublk_bpf_req_op(const struct ublk_bpf_req *req)
{
	return req->opf & REQ_OP_MASK;
}

/* The only operations that come with pages */
static inline bool ublk_bpf_has_data(const struct ublk_bpf_req *req)
{
	return ublk_bpf_req_op(req) <= REQ_OP_WRITE;
}

/* Is the program to see bios, or requests only? */
static inline bool ublk_bpf_wants_bios(const struct ublk_bpf_att *att)
{
	return !(att->flags & (UBLK_BPF_ATTACH_F_REQUESTS |
			       UBLK_BPF_ATTACH_F_NO_INLINE));
}

static inline struct ublk_bpf_req *ublk_bpf_rq_data(struct request *rq)
{
	return blk_mq_rq_to_pdu(rq) + rq->q->tag_set->cmd_size -
		UBLK_BPF_PDU_SIZE;
}

/*
 * bpf_prog_run_pin_on_cpu() for a program that is as short as ours have to be:
 * preemption off is cheaper than migration off, except where it is the point
 * of the kernel that it stays on. Caller holds rcu_read_lock().
 */
static inline u32 ublk_bpf_run_prog(const struct bpf_prog *prog,
				    const void *ctx)
{
	u32 ret;

	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return bpf_prog_run_pin_on_cpu(prog, ctx);
	preempt_disable();
	ret = bpf_prog_run(prog, ctx);
	preempt_enable();
	return ret;
}

/* the bpf subsystem's side */
struct bpf_prog *ublk_bpf_face_get_prog(int fd, bool complete);

/* Caller holds rcu_read_lock() */
static inline u32 ublk_bpf_face_run(const struct bpf_prog *prog,
				    struct ublk_bpf_ctx_kern *kctx)
{
#ifdef UBLK_BPF_STRUCT_OPS
	/* as a trampoline would: the context is an array of the arguments */
	return ublk_bpf_run_prog(prog, &kctx);
#else
	return ublk_bpf_run_prog(prog, &kctx->ctx);
#endif
}

/* ublk_bpf_intercept.c */
#ifdef UBLK_BPF_STRUCT_OPS
void ublk_bpf_init_intercept(struct ublk_bpf_dev *bd, struct gendisk *disk);
bool ublk_bpf_can_intercept(const struct ublk_bpf_dev *bd);
void ublk_bpf_intercept(struct ublk_bpf_dev *bd, bool on);
void ublk_bpf_leave_intercept(struct ublk_bpf_dev *bd, struct request *rq);
#else
static inline void ublk_bpf_init_intercept(struct ublk_bpf_dev *bd,
					   struct gendisk *disk) { }

static inline bool ublk_bpf_can_intercept(const struct ublk_bpf_dev *bd)
{
	return true;
}

static inline void ublk_bpf_intercept(struct ublk_bpf_dev *bd, bool on) { }
static inline void ublk_bpf_leave_intercept(struct ublk_bpf_dev *bd,
					    struct request *rq) { }

/* A bio of which the block layer is to make a request */
static inline void ublk_bpf_to_mq(struct ublk_bpf_dev *bd, struct bio *bio)
{
	submit_bio_noacct(bio);
}
#endif

/* ublk_bpf_file.c */
int ublk_bpf_init_file(struct ublk_bpf_file *f, struct file *file, u32 flags);
int ublk_bpf_check_files(const struct ublk_bpf_dev *bd,
			 const struct ublk_bpf_att *att);
void ublk_bpf_be_above(struct ublk_bpf_att *att);
void ublk_bpf_be_gone(struct ublk_bpf_att *att);
void ublk_bpf_enter_graph(struct ublk_bpf_dev *bd);
void ublk_bpf_leave_graph(struct ublk_bpf_dev *bd);

/* ublk_bpf_retire.c */
extern struct mutex ublk_bpf_lock;
void ublk_bpf_free_att(struct ublk_bpf_att *att);
void ublk_bpf_put_att(struct ublk_bpf_att *att);
struct ublk_bpf_att *ublk_bpf_get_att(struct ublk_bpf_dev *bd);
int ublk_bpf_init_home(struct ublk_bpf_dev *bd);
void ublk_bpf_exit_home(struct ublk_bpf_dev *bd);
void ublk_bpf_init_retire(struct ublk_bpf_att *att);
struct ublk_bpf_epoch *ublk_bpf_new_epoch(struct ublk_bpf_att *att);
void ublk_bpf_put_epoch(struct ublk_bpf_epoch *epoch);
struct ublk_bpf_att *ublk_bpf_set_epoch(struct ublk_bpf_dev *bd,
					struct ublk_bpf_epoch *epoch,
					bool forget);
struct ublk_bpf_epoch *ublk_bpf_next_epoch(struct ublk_bpf_dev *bd,
					   struct ublk_bpf_epoch *epoch);
struct ublk_bpf_att *ublk_bpf_last_owed(struct ublk_bpf_dev *bd);
struct ublk_bpf_epoch *ublk_bpf_owed_epoch(struct ublk_bpf_dev *bd, u64 no);
bool __ublk_bpf_hold_flush(struct ublk_bpf_dev *bd, struct request *rq,
			   bool refuse);

/* ublk_bpf_queue.c */
void ublk_bpf_end_rq(struct request *rq, blk_status_t sts);
void ublk_bpf_end(struct ublk_bpf_req *req, blk_status_t sts);
int ublk_bpf_init_reqs(void);
void ublk_bpf_exit_reqs(void);
void ublk_bpf_free_bio_req(struct ublk_bpf_req *req);
void ublk_bpf_mark_bio(struct bio *bio, enum ublk_bpf_server server);
void ublk_bpf_init_ctx(struct ublk_bpf_ctx_kern *kctx);

/* ublk_bpf_plan.c */
void ublk_bpf_refuse(struct ublk_bpf_ctx_kern *kctx,
		     enum ublk_bpf_reason reason, u32 verdict);
int ublk_bpf_plan_sqe(struct ublk_bpf_ctx_kern *kctx,
		      const struct io_uring_sqe *sqe, u32 sqe_sz, u32 target);
enum ublk_bpf_reason __ublk_bpf_check_plan(struct ublk_bpf_ctx_kern *kctx);
int ublk_bpf_reason_errno(enum ublk_bpf_reason reason);
void ublk_bpf_zero_range(struct ublk_bpf_req *req, u32 off, u32 len);
void ublk_bpf_zero_data(struct ublk_bpf_req *req);

static inline enum ublk_bpf_reason
ublk_bpf_check_plan(struct ublk_bpf_ctx_kern *kctx)
{
	struct ublk_bpf_req *req = kctx->req;

	/* most plans are one READ or WRITE: its direction has been checked */
	if (likely(req->nr == 1 && !req->refused &&
		   ublk_bpf_is_rw(&req->sqes[0]) &&
		   req->sqes[0].len == req->bytes)) {
		req->sqes[0].link = false;
		return UBLK_BPF_REFUSED_NONE;
	}
	return __ublk_bpf_check_plan(kctx);
}

/* ublk_bpf_complete.c */
void ublk_bpf_plan_done(struct ublk_bpf_req *req);

/* ublk_bpf_bio.c */
bool __ublk_bpf_issue_bio(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s,
			  bool nowait);

/*
 * Issue a READ or WRITE as a bio; the SQE may be done before it returns. False,
 * with nothing done, if it has to go through the file's operations.
 */
static inline bool ublk_bpf_issue_bio(struct ublk_bpf_req *req,
				      struct ublk_bpf_sqe *s, bool nowait)
{
	return ublk_bpf_sqe_file(req, s)->bdev &&
		__ublk_bpf_issue_bio(req, s, nowait);
}

/* ublk_bpf_inline.c */
bool ublk_bpf_may_inline(const struct ublk_bpf_req *req,
			 const struct ublk_bpf_sqe *s);
void ublk_bpf_issue_inline(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s);

/* ublk_bpf_work.c */
int ublk_bpf_init_queues(void);
void ublk_bpf_exit_queues(void);
void ublk_bpf_queue_retire(struct ublk_bpf_att *att);
struct workqueue_struct *ublk_bpf_slow_queue(const struct ublk_bpf_dev *bd);
struct workqueue_struct *ublk_bpf_lane_queue(const struct ublk_bpf_dev *bd,
					     bool reg);
int ublk_bpf_init_workers(struct ublk_bpf_dev *bd, bool stacked);
void ublk_bpf_exit_workers(struct ublk_bpf_dev *bd);
void ublk_bpf_enter_worker(struct ublk_bpf_worker *w);
void ublk_bpf_leave_worker(struct ublk_bpf_worker *w);
void ublk_bpf_set_blkcg(struct ublk_bpf_worker *w, struct bio *bio);
struct cgroup_subsys_state *ublk_bpf_enter_memcg(struct bio *bio,
						 struct mem_cgroup **old);
void ublk_bpf_leave_memcg(struct cgroup_subsys_state *css,
			  struct mem_cgroup *old);

/* ublk_bpf_exec.c */
/* Where a READ or WRITE is issued, and so how long it may wait */
enum ublk_bpf_where {
	UBLK_BPF_INLINE,	/* the submitter: not at all, if it can be helped */
	UBLK_BPF_LANE,		/* a lane's worker: not for a frozen file system */
	UBLK_BPF_ALONE,		/* a work of its own: as long as it takes */
};

void ublk_bpf_lane_workfn(struct work_struct *work);
void __ublk_bpf_rw_done(struct ublk_bpf_sqe *s, long ret, bool nowait);
void ublk_bpf_issue_iocb(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s,
			 enum ublk_bpf_where where);
void __ublk_bpf_free_bvec(struct ublk_bpf_req *req);
bool __ublk_bpf_map_data(struct ublk_bpf_req *req, gfp_t gfp);
void ublk_bpf_execute_later(struct ublk_bpf_req *req);
void ublk_bpf_execute(struct ublk_bpf_req *req);

static inline void ublk_bpf_put_req(struct ublk_bpf_req *req)
{
	/* a plan of one SQE is done with it */
	if (likely(req->nr == 1) || atomic_dec_and_test(&req->ref))
		ublk_bpf_plan_done(req);
}

/* What a READ or WRITE, in one go or its rest, came to: bytes or an error */
static inline void ublk_bpf_rw_done(struct ublk_bpf_sqe *s, long ret,
				    bool nowait)
{
	if (likely(ret == s->len - s->done && !s->link))
		ublk_bpf_put_req(ublk_bpf_sqe_req(s));
	else
		__ublk_bpf_rw_done(s, ret, nowait);
}

/* A request of several bios needs one array of their bvecs */
static inline bool ublk_bpf_map_data(struct ublk_bpf_req *req, gfp_t gfp)
{
	return likely(!req->bio || !req->bio->bi_next || req->bvec) ||
		!ublk_bpf_has_data(req) || __ublk_bpf_map_data(req, gfp);
}

static inline void ublk_bpf_free_bvec(struct ublk_bpf_req *req)
{
	if (unlikely(req->bvec))
		__ublk_bpf_free_bvec(req);
}

#endif
