// SPDX-License-Identifier: GPL-2.0
/*
 * Where requests come in, and go out: the program is run for each, once, and
 * its verdict decides who goes on with it. A READ or WRITE is shown to the
 * program as the bio that it is. If the program takes it, no request is ever
 * made of it; a struct ublk_bpf_req of its own takes the place of the request's
 * driver data. All else comes as a request.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/slab.h>
#include "ublk_bpf_int.h"

/*
 * Of bios. A few are kept for each processor, as a slab takes more instructions
 * than all that the program does.
 */
#define UBLK_BPF_NR_CACHED	32

struct ublk_bpf_cache {
	struct ublk_bpf_req	*reqs[UBLK_BPF_NR_CACHED];
	unsigned int		nr;
	sector_t		next;	/* see ublk_bpf_is_in_a_row() */
};

static DEFINE_PER_CPU(struct ublk_bpf_cache, ublk_bpf_cached);
static struct kmem_cache *ublk_bpf_req_cache;

/* With a constructor, nobody fills it with zeroes */
static void ublk_bpf_construct(void *p)
{
	struct ublk_bpf_req *req = p;

	req->rq = NULL;
}

int ublk_bpf_init_reqs(void)
{
	ublk_bpf_req_cache = kmem_cache_create("ublk_bpf_req",
					       struct_size_t(struct ublk_bpf_req,
							     bios,
							     UBLK_BPF_MAX_SQES),
					       0,
					       SLAB_HWCACHE_ALIGN,
					       ublk_bpf_construct);
	return ublk_bpf_req_cache ? 0 : -ENOMEM;
}

/* No device is left */
void ublk_bpf_exit_reqs(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct ublk_bpf_cache *c = per_cpu_ptr(&ublk_bpf_cached, cpu);

		while (c->nr)
			kmem_cache_free(ublk_bpf_req_cache, c->reqs[--c->nr]);
	}
	kmem_cache_destroy(ublk_bpf_req_cache);
	ublk_bpf_req_cache = NULL;
}

/* Never waits, and has no reserve: the tags of requests are one */
static struct ublk_bpf_req *ublk_bpf_alloc_req(void)
{
	struct ublk_bpf_req *req = NULL;
	struct ublk_bpf_cache *c;
	unsigned long flags;

	local_irq_save(flags);
	c = this_cpu_ptr(&ublk_bpf_cached);
	if (likely(c->nr))
		req = c->reqs[--c->nr];
	local_irq_restore(flags);
	if (likely(req))
		return req;
	return kmem_cache_alloc(ublk_bpf_req_cache, GFP_NOWAIT | __GFP_NOWARN |
						    __GFP_NOMEMALLOC);
}

/* Any context */
static void ublk_bpf_free_req(struct ublk_bpf_req *req)
{
	struct ublk_bpf_cache *c;
	unsigned long flags;

	local_irq_save(flags);
	c = this_cpu_ptr(&ublk_bpf_cached);
	if (likely(c->nr < UBLK_BPF_NR_CACHED)) {
		c->reqs[c->nr++] = req;
		req = NULL;
	}
	local_irq_restore(flags);
	if (unlikely(req))
		kmem_cache_free(ublk_bpf_req_cache, req);
}

static u8 ublk_bpf_op(enum req_op op)
{
	static_assert((u8)REQ_OP_READ == UBLK_IO_OP_READ);
	static_assert((u8)REQ_OP_WRITE == UBLK_IO_OP_WRITE);

	if (likely(op <= REQ_OP_WRITE))
		return (__force u8)op;
	switch (op) {
	case REQ_OP_FLUSH:
		return UBLK_IO_OP_FLUSH;
	case REQ_OP_DISCARD:
		return UBLK_IO_OP_DISCARD;
	case REQ_OP_WRITE_ZEROES:
		return UBLK_IO_OP_WRITE_ZEROES;
	default:
		/* the driver fails what it does not know, a program passes it */
		return 0xff;
	}
}

static u32 ublk_bpf_op_flags(blk_opf_t opf)
{
	u32 flags = 0;

	/* most requests have none of them */
	if (likely(!(opf & (REQ_FAILFAST_MASK | REQ_META | REQ_FUA |
			    REQ_NOUNMAP | REQ_SWAP))))
		return 0;
	if (opf & REQ_FAILFAST_DEV)
		flags |= UBLK_IO_F_FAILFAST_DEV;
	if (opf & REQ_FAILFAST_TRANSPORT)
		flags |= UBLK_IO_F_FAILFAST_TRANSPORT;
	if (opf & REQ_FAILFAST_DRIVER)
		flags |= UBLK_IO_F_FAILFAST_DRIVER;
	if (opf & REQ_META)
		flags |= UBLK_IO_F_META;
	if (opf & REQ_FUA)
		flags |= UBLK_IO_F_FUA;
	if (opf & REQ_NOUNMAP)
		flags |= UBLK_IO_F_NOUNMAP;
	if (opf & REQ_SWAP)
		flags |= UBLK_IO_F_SWAP;
	return flags;
}

/* @rq: that of the struct ublk_bpf_req. To inline it is worth it for bios */
static __always_inline void __ublk_bpf_init_ctx(struct ublk_bpf_ctx_kern *kctx,
						const struct request *rq)
{
	const struct ublk_bpf_req *req = kctx->req;
	const struct ublk_bpf_att *att = kctx->att;
	struct ublk_bpf_ctx *ctx = &kctx->ctx;

	if (rq) {
		ctx->q_id = rq->mq_hctx->queue_num;
		ctx->tag = rq->tag;
		/* that of a flush is not set */
		ctx->start_sector = req->bytes ? blk_rq_pos(rq) : 0;
	} else {
		ctx->q_id = UBLK_BPF_NO_TAG;
		ctx->tag = UBLK_BPF_NO_TAG;
		ctx->start_sector = req->bio->bi_iter.bi_sector;
	}
	ctx->op = ublk_bpf_op(ublk_bpf_req_op(req));
	ctx->round = 0;
	ctx->failed = 0;
	ctx->pad = 0;
	ctx->flags = ublk_bpf_op_flags(req->opf);
	ctx->nr_sectors = req->bytes >> SECTOR_SHIFT;
	ctx->dev_id = att->bd->dev_id;
	ctx->nr_files = att->nr_files;
	ctx->result = 0;
	ctx->pad2 = 0;
	ctx->user_data = 0;
}

/* What both programs know of a request */
void ublk_bpf_init_ctx(struct ublk_bpf_ctx_kern *kctx)
{
	__ublk_bpf_init_ctx(kctx, kctx->req->rq);
}

/*
 * As ublk_end_request() explains, a final fput() must not become task work of
 * a task that serves the file. A completion with interrupts disabled comes as
 * it is.
 */
void ublk_bpf_end_rq(struct request *rq, blk_status_t sts)
{
	if (irqs_disabled()) {
		blk_mq_end_request(rq, sts);
		return;
	}
	local_bh_disable();
	blk_mq_end_request(rq, sts);
	local_bh_enable();
}

/* From here on it ends by ublk_bpf_end(), or goes to the server */
static void ublk_bpf_begin(struct ublk_bpf_req *req)
{
	struct request_queue *q;

	if (req->rq) {
		blk_mq_start_request(req->rq);
		return;
	}
	q = bdev_get_queue(req->bio->bi_bdev);
	req->start = blk_queue_io_stat(q) ? bio_start_io_acct(req->bio) : 0;
}

/* Of a bio that has begun: what is kept for it goes, except the queue */
void ublk_bpf_free_bio_req(struct ublk_bpf_req *req)
{
	if (req->start)
		bio_end_io_acct(req->bio, req->start);
	ublk_bpf_free_req(req);
}

/*
 * Not blk_mq_complete_request(): what was issued has been completed where its
 * submitter wants it, by the backing's own queue. For a queue of its own it
 * would raise a softirq, and wake ksoftirqd for it.
 */
void ublk_bpf_end(struct ublk_bpf_req *req, blk_status_t sts)
{
	struct bio *bio = req->bio;
	struct request_queue *q;

	if (req->rq) {
		ublk_bpf_end_rq(req->rq, sts);
		return;
	}
	q = bdev_get_queue(bio->bi_bdev);
	ublk_bpf_free_bio_req(req);
	/* a bio chained to it may have left an error there */
	if (unlikely(sts))
		bio->bi_status = sts;
	bio_endio(bio);
	percpu_ref_put(&q->q_usage_counter);
}

/* The epoch of what is attached, with a reference, or NULL */
static __always_inline struct ublk_bpf_epoch *
ublk_bpf_get_epoch(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_epoch *epoch;

	lockdep_assert_in_rcu_read_lock();
	do {	/* one that is killed has been replaced already */
		epoch = rcu_dereference(bd->epoch);
	} while (epoch && !percpu_ref_tryget_live_rcu(&epoch->ref));
	return epoch;
}

static __always_inline u32 ublk_bpf_run(struct ublk_bpf_ctx_kern *kctx,
					const struct request *rq)
{
	struct ublk_bpf_req *req = kctx->req;

	__ublk_bpf_init_ctx(kctx, rq);
	req->bvec = NULL;
	req->error = 0;
	req->failed = 0;
	req->user_data = 0;
	req->nr = 0;
	req->round = 0;
	req->refused = false;
	return ublk_bpf_face_run(kctx->att->prog, kctx);
}

/* The plan stands: the request is ours until it is done */
static void ublk_bpf_redirect(struct ublk_bpf_ctx_kern *kctx)
{
	struct ublk_bpf_att *att = kctx->att;
	struct ublk_bpf_req *req = kctx->req;

	this_cpu_inc(att->bd->stats->redirected);
	if (!req->rq)
		this_cpu_inc(att->bd->stats->bios);
	if (req->nr > 1)	/* the first of each is redirected's */
		this_cpu_add(att->bd->stats->more_sqes, req->nr - 1);
	/*
	 * Owned before it is started: whoever cancels the server's commands
	 * must not take a request that is ours for one that is the server's.
	 */
	WRITE_ONCE(req->att, att);
	smp_wmb();	/* pairs with ublk_bpf_owns_rq() */
	ublk_bpf_begin(req);
	if (likely(ublk_bpf_map_data(req, GFP_NOWAIT)))
		ublk_bpf_execute(req);
	else
		ublk_bpf_execute_later(req);
}

/* Any verdict except that to execute a plan that is good */
static noinline bool ublk_bpf_obey_other(struct ublk_bpf_ctx_kern *kctx,
					 u32 verdict,
					 enum ublk_bpf_reason reason)
{
	struct ublk_bpf_req *req = kctx->req;
	struct ublk_bpf_epoch *epoch = req->epoch;
	struct ublk_bpf_dev *bd = kctx->att->bd;
	blk_status_t sts = BLK_STS_IOERR;

	switch (verdict) {
	case UBLK_BPF_IO_REDIRECT:
		ublk_bpf_refuse(kctx, reason, verdict);
		this_cpu_inc(bd->stats->aborted);
		break;
	case UBLK_BPF_IO_PASS:
		this_cpu_inc(bd->stats->passed);
		percpu_ref_put(&epoch->ref);
		return false;
	case UBLK_BPF_IO_DROP:
		this_cpu_inc(bd->stats->dropped);
		if (ublk_bpf_req_op(req) == REQ_OP_READ)
			ublk_bpf_zero_data(req);
		sts = BLK_STS_OK;
		break;
	default:
		ublk_bpf_refuse(kctx, UBLK_BPF_REFUSED_VERDICT, verdict);
		fallthrough;
	case UBLK_BPF_IO_ABORTED:
		this_cpu_inc(bd->stats->aborted);
		break;
	}
	ublk_bpf_begin(req);
	percpu_ref_put(&epoch->ref);
	ublk_bpf_end(req, sts);
	return true;
}

/* What the verdict says. False: the request goes on its way to the server */
static __always_inline bool ublk_bpf_obey(struct ublk_bpf_ctx_kern *kctx,
					  u32 verdict)
{
	enum ublk_bpf_reason reason = UBLK_BPF_REFUSED_NONE;

	if (likely(verdict == UBLK_BPF_IO_REDIRECT)) {
		reason = ublk_bpf_check_plan(kctx);
		if (likely(!reason)) {
			ublk_bpf_redirect(kctx);
			return true;
		}
	}
	return ublk_bpf_obey_other(kctx, verdict, reason);
}

/*
 * A bio that is to become a request, of which the program is not to be asked.
 * The mark is in the place of the write hint, for which a server has no use: it
 * goes with the parts of a bio that is split, and bios that have not got the
 * same one are not merged.
 */
#define UBLK_BPF_MARK	0x80

void ublk_bpf_mark_bio(struct bio *bio, enum ublk_bpf_server server)
{
	bio->bi_opf |= REQ_DRV;
	bio->bi_write_hint = UBLK_BPF_MARK | server;
}

/* What ublk_bpf_mark_bio() has left becomes the request's */
static enum ublk_bpf_server ublk_bpf_take_mark(struct ublk_bpf_req *req,
					       struct request *rq)
{
	struct bio *bio;
	u8 server;

	if (rq->rq_flags & RQF_DONTPREP)
		return req->server;
	if (likely(!(rq->cmd_flags & REQ_DRV)) || !rq->bio)
		return UBLK_BPF_ASK;
	server = rq->bio->bi_write_hint;
	rq->cmd_flags &= ~REQ_DRV;
	__rq_for_each_bio(bio, rq) {
		bio->bi_opf &= ~REQ_DRV;
		if (bio->bi_write_hint & UBLK_BPF_MARK)
			bio->bi_write_hint = WRITE_LIFE_NOT_SET;
	}
	if (!(server & UBLK_BPF_MARK))
		return UBLK_BPF_ASK;
	server &= ~UBLK_BPF_MARK;
	/* if it comes again, as the server has died, the program is asked */
	if (server == UBLK_BPF_PASSED)
		return server;
	req->server = server;
	rq->rq_flags |= RQF_DONTPREP;
	return server;
}

/* Must a FLUSH wait, or fail, for what is not attached any more? */
static bool ublk_bpf_hold_flush(struct ublk_bpf_dev *bd, struct request *rq,
				bool refuse)
{
	/* pairs with ublk_bpf_set_epoch(): who sees the new one sees the debt */
	smp_rmb();
	/* pairs with ublk_bpf_update(): what was owed is durable */
	if (likely(!smp_load_acquire(&bd->look_at_flush)))
		return false;
	return __ublk_bpf_hold_flush(bd, rq, refuse);
}

/*
 * False: the driver goes on with the request. It does so too if it is going to
 * @refuse it, as there is no server, or the device is being stopped.
 */
bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd, struct request *rq,
		       bool refuse)
{
	struct ublk_bpf_req *req = ublk_bpf_rq_data(rq);
	struct ublk_bpf_ctx_kern kctx __uninitialized;
	struct ublk_bpf_epoch *epoch;
	u32 verdict;

	ublk_bpf_leave_intercept(bd, rq);
	rcu_read_lock();
	epoch = ublk_bpf_get_epoch(bd);
	if (unlikely(req_op(rq) == REQ_OP_FLUSH) &&
	    ublk_bpf_hold_flush(bd, rq, refuse)) {
		rcu_read_unlock();
		if (epoch)
			percpu_ref_put(&epoch->ref);
		return true;
	}
	if (ublk_bpf_take_mark(req, rq) || !epoch || unlikely(refuse)) {
		rcu_read_unlock();
		if (epoch)
			percpu_ref_put(&epoch->ref);
		return false;
	}
	req->epoch = epoch;
	req->rq = rq;
	req->bio = rq->bio;
	req->opf = rq->cmd_flags;
	req->bytes = blk_rq_bytes(rq);
	kctx.req = req;
	kctx.att = epoch->att;
	verdict = ublk_bpf_run(&kctx, rq);
	rcu_read_unlock();
	return ublk_bpf_obey(&kctx, verdict);
}
EXPORT_SYMBOL_GPL(ublk_bpf_queue_rq);

/* Is it one that the program sees before it is a request? */
static bool ublk_bpf_likes_bio(const struct bio *bio)
{
	const unsigned int mask = bdev_logical_block_size(bio->bi_bdev) - 1;
	const blk_opf_t opf = bio->bi_opf;

	/* what is not aligned is refused as a request */
	if (unlikely(((bio->bi_iter.bi_sector << SECTOR_SHIFT) |
		      bio->bi_iter.bi_size) & mask))
		return false;
	if (bio_op(bio) > REQ_OP_WRITE ||
	    opf & (REQ_DRV | REQ_PREFLUSH | REQ_POLLED | REQ_ATOMIC))
		return false;
	/* who has a scheduler wants it to see what comes */
	if (bdev_get_queue(bio->bi_bdev)->elevator)
		return false;
	return !(opf & REQ_FUA) || bdev_fua(bio->bi_bdev);
}

/*
 * A program sees no more at a time than of requests. What is split for other
 * limits, as that of segments, need not be: the backing has its own.
 */
static bool ublk_bpf_is_long(const struct bio *bio)
{
	const struct queue_limits *lim = bdev_limits(bio->bi_bdev);

	if (likely(!lim->chunk_sectors))
		return bio_sectors(bio) > lim->max_sectors;
	return bio_sectors(bio) >
		min(lim->max_sectors,
		    blk_boundary_sectors_left(bio->bi_iter.bi_sector,
					      lim->chunk_sectors));
}

/*
 * A block device merges our bios with others, a file merges nothing. So what
 * comes one after the other, with more to come by the submitter's plug, is to
 * be merged as requests. A wrong guess only costs instructions, so nobody minds
 * that we may be moved to another processor, or that devices share ->next.
 */
static bool ublk_bpf_is_in_a_row(const struct bio *bio)
{
	struct ublk_bpf_cache *c = raw_cpu_ptr(&ublk_bpf_cached);
	const sector_t next = READ_ONCE(c->next);

	WRITE_ONCE(c->next, bio_end_sector(bio));
	return bio->bi_iter.bi_sector == next;
}

/*
 * Returns what is to become a request: NULL if it is ours, else the bio, or
 * the first part of it. The caller has entered the queue.
 */
struct bio *ublk_bpf_queue_bio(struct ublk_bpf_dev *bd, struct bio *bio,
			       bool refuse)
{
	struct request_queue *q = bdev_get_queue(bio->bi_bdev);
	struct ublk_bpf_ctx_kern kctx __uninitialized;
	struct ublk_bpf_epoch *epoch;
	struct ublk_bpf_req *req;
	bool split;
	u32 verdict;

	if (refuse || !ublk_bpf_likes_bio(bio))
		return bio;
	if (READ_ONCE(bd->merge) && current->plug &&
	    ublk_bpf_is_in_a_row(bio))
		return bio;
	split = ublk_bpf_is_long(bio);
	if (unlikely(split)) {
		/* the rest of it comes again */
		bio = bio_split_to_limits(bio);
		if (!bio)
			return NULL;
	}
	req = ublk_bpf_alloc_req();
	if (unlikely(!req))
		return bio;
	rcu_read_lock();
	epoch = ublk_bpf_get_epoch(bd);
	if (unlikely(!epoch))
		goto free;
	/* as a request would: whoever freezes the queue waits for it */
	if (unlikely(!ublk_bpf_wants_bios(epoch->att) ||
		     !percpu_ref_tryget_live_rcu(&q->q_usage_counter)))
		goto put;
	req->epoch = epoch;
	req->bio = bio;
	req->split = split;
	req->opf = bio->bi_opf;
	req->bytes = bio->bi_iter.bi_size;
	kctx.req = req;
	kctx.att = epoch->att;
	verdict = ublk_bpf_run(&kctx, NULL);
	rcu_read_unlock();
	if (likely(ublk_bpf_obey(&kctx, verdict)))
		return NULL;
	percpu_ref_put(&q->q_usage_counter);
	ublk_bpf_free_req(req);
	ublk_bpf_mark_bio(bio, UBLK_BPF_PASSED);
	return bio;

put:
	percpu_ref_put(&epoch->ref);
free:
	rcu_read_unlock();
	ublk_bpf_free_req(req);
	return bio;
}
EXPORT_SYMBOL_GPL(ublk_bpf_queue_bio);

/*
 * Has a started request been taken by the engine, so that the server will not
 * see it? May be asked at any time: an answer that is about to change is the
 * same as one given a moment earlier, and the caller, which cancels the
 * server's commands, asks again until no request is left.
 */
bool ublk_bpf_owns_rq(struct request *rq)
{
	smp_rmb();	/* pairs with ublk_bpf_redirect() */
	return READ_ONCE(ublk_bpf_rq_data(rq)->att);
}
EXPORT_SYMBOL_GPL(ublk_bpf_owns_rq);

/* Of one that the engine has had before */
u32 __ublk_bpf_iod_flags(struct request *rq)
{
	return ublk_bpf_rq_data(rq)->server == UBLK_BPF_FAILED ?
		UBLK_IO_F_BPF_FAILED : 0;
}
EXPORT_SYMBOL_GPL(__ublk_bpf_iod_flags);
