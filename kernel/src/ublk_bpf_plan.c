// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the program for a request, checks the SQEs it queues and the plan that
 * they make. Nothing is issued from here but by ublk_bpf_execute().
 */
#include <linux/types.h>
#include <linux/falloc.h>
#include <uapi/linux/io_uring.h>
#include "ublk_bpf_int.h"

/* What is read of a program's struct io_uring_sqe, which may change meanwhile */
struct ublk_bpf_user_sqe {
	u64	off;
	u64	addr;
	u64	reserved;	/* all that must be 0 */
	u32	len;
	u32	op_flags;	/* ->rw_flags, ->fsync_flags, ->nop_flags */
	s32	fd;
	u8	opcode;
	u8	flags;
};

static const u8 ublk_bpf_reason_errnos[UBLK_BPF_NR_REFUSED] = {
	[UBLK_BPF_REFUSED_SIZE]		= EINVAL,
	[UBLK_BPF_REFUSED_FULL]		= ENOSPC,
	[UBLK_BPF_REFUSED_FLAGS]	= EINVAL,
	[UBLK_BPF_REFUSED_RESERVED]	= EINVAL,
	[UBLK_BPF_REFUSED_OPCODE]	= EOPNOTSUPP,
	[UBLK_BPF_REFUSED_FD]		= EBADF,
	[UBLK_BPF_REFUSED_DIRECTION]	= EINVAL,
	[UBLK_BPF_REFUSED_FILE_MODE]	= EBADF,
	[UBLK_BPF_REFUSED_DATA]		= EFAULT,
	[UBLK_BPF_REFUSED_LEN]		= EINVAL,
	[UBLK_BPF_REFUSED_OFF]		= EINVAL,
	[UBLK_BPF_REFUSED_RW_FLAGS]	= EOPNOTSUPP,
	[UBLK_BPF_REFUSED_FSYNC_FLAGS]	= EINVAL,
	[UBLK_BPF_REFUSED_MODE]		= EOPNOTSUPP,
	[UBLK_BPF_REFUSED_EMPTY]	= EIO,
	[UBLK_BPF_REFUSED_PLAN]		= EIO,
	[UBLK_BPF_REFUSED_UNCOVERED]	= EIO,
	[UBLK_BPF_REFUSED_NO_FSYNC]	= EIO,
	[UBLK_BPF_REFUSED_VERDICT]	= EIO,
};

/* Positive errno that goes with a reason */
int ublk_bpf_reason_errno(enum ublk_bpf_reason reason)
{
	return ublk_bpf_reason_errnos[reason];
}

u8 ublk_bpf_op(const struct request *rq)
{
	switch (req_op(rq)) {
	case REQ_OP_READ:
		return UBLK_IO_OP_READ;
	case REQ_OP_WRITE:
		return UBLK_IO_OP_WRITE;
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

static u32 ublk_bpf_op_flags(const struct request *rq)
{
	const blk_opf_t opf = rq->cmd_flags;
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

/* Count a refusal and remember it; @sqe is NULL for a whole plan or a verdict */
static void ublk_bpf_refuse(struct ublk_bpf_ctx_kern *kctx,
			    enum ublk_bpf_reason reason,
			    const struct ublk_bpf_user_sqe *sqe, u32 verdict)
{
	struct ublk_bpf_dev *bd = kctx->att->bd;
	struct ublk_bpf_last_refused last = {
		.reason	= reason,
		.op	= kctx->ctx.op,
		.q_id	= kctx->ctx.q_id,
		.tag	= kctx->ctx.tag,
		.value	= verdict,
	};
	unsigned long flags;

	if (sqe) {
		last.opcode = sqe->opcode;
		last.sqe_flags = sqe->flags;
		last.fd = sqe->fd;
		last.len = sqe->len;
		last.value = sqe->op_flags;
		last.off = sqe->off;
		last.addr = sqe->addr;
	}
	this_cpu_inc(bd->stats->refused[reason]);
	if (reason == UBLK_BPF_REFUSED_PLAN)
		return;		/* the SQE that was refused tells more */
	/* we are below the program, which does not sleep for a lock */
	raw_spin_lock_irqsave(&bd->last_lock, flags);
	bd->last = last;
	raw_spin_unlock_irqrestore(&bd->last_lock, flags);
}

static enum ublk_bpf_reason
ublk_bpf_check_rw(const struct ublk_bpf_ctx_kern *kctx,
		  const struct ublk_bpf_file *f, const struct ublk_bpf_user_sqe *sqe,
		  struct ublk_bpf_sqe *s)
{
	const struct request *rq = kctx->rq;
	const unsigned int bytes = blk_rq_bytes(rq);
	const bool write = sqe->opcode == IORING_OP_WRITE ||
			   sqe->opcode == IORING_OP_WRITE_FIXED;

	if (req_op(rq) != (write ? REQ_OP_WRITE : REQ_OP_READ))
		return UBLK_BPF_REFUSED_DIRECTION;
	if (!(f->file->f_mode & (write ? FMODE_WRITE : FMODE_READ)))
		return UBLK_BPF_REFUSED_FILE_MODE;
	if (!sqe->len)
		return UBLK_BPF_REFUSED_LEN;
	if (sqe->addr >= bytes || sqe->len > bytes - sqe->addr)
		return UBLK_BPF_REFUSED_DATA;
	if (sqe->op_flags & ~(__force u32)UBLK_BPF_RW_FLAGS)
		return UBLK_BPF_REFUSED_RW_FLAGS;
	/* a driver takes what is not aligned for other data, without a word */
	if (unlikely(sqe->addr & f->data_mask))
		return UBLK_BPF_REFUSED_DATA;
	if (unlikely(sqe->len & f->off_mask))
		return UBLK_BPF_REFUSED_LEN;
	if (unlikely(sqe->off & f->off_mask))
		return UBLK_BPF_REFUSED_OFF;

	s->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
	s->off = sqe->off;
	s->len = sqe->len;
	s->data_off = sqe->addr;
	s->op_flags = sqe->op_flags;
	return UBLK_BPF_REFUSED_NONE;
}

static enum ublk_bpf_reason
ublk_bpf_check_fsync(const struct ublk_bpf_user_sqe *sqe, struct ublk_bpf_sqe *s)
{
	if (sqe->addr || sqe->off || sqe->len)
		return UBLK_BPF_REFUSED_RESERVED;
	if (sqe->op_flags & ~IORING_FSYNC_DATASYNC)
		return UBLK_BPF_REFUSED_FSYNC_FLAGS;

	s->opcode = IORING_OP_FSYNC;
	s->off = 0;
	s->len = 0;
	s->op_flags = sqe->op_flags;
	return UBLK_BPF_REFUSED_NONE;
}

/* As in io_uring, ->addr is the length and ->len the mode */
static enum ublk_bpf_reason
ublk_bpf_check_fallocate(const struct ublk_bpf_ctx_kern *kctx,
			 const struct ublk_bpf_file *f,
			 const struct ublk_bpf_user_sqe *sqe, struct ublk_bpf_sqe *s)
{
	const struct request *rq = kctx->rq;

	if (req_op(rq) != REQ_OP_DISCARD && req_op(rq) != REQ_OP_WRITE_ZEROES)
		return UBLK_BPF_REFUSED_DIRECTION;
	if (!(f->file->f_mode & FMODE_WRITE))
		return UBLK_BPF_REFUSED_FILE_MODE;
	if (sqe->op_flags)
		return UBLK_BPF_REFUSED_RESERVED;
	if (sqe->len != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    sqe->len != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		return UBLK_BPF_REFUSED_MODE;
	if (!sqe->addr || sqe->addr > blk_rq_bytes(rq))
		return UBLK_BPF_REFUSED_LEN;

	s->opcode = IORING_OP_FALLOCATE;
	s->off = sqe->off;
	s->len = sqe->addr;
	s->op_flags = sqe->len;
	return UBLK_BPF_REFUSED_NONE;
}

static void ublk_bpf_copy_sqe(struct ublk_bpf_user_sqe *to,
			      const struct io_uring_sqe *from)
{
	to->opcode = READ_ONCE(from->opcode);
	to->flags = READ_ONCE(from->flags);
	to->fd = READ_ONCE(from->fd);
	to->off = READ_ONCE(from->off);
	to->addr = READ_ONCE(from->addr);
	to->len = READ_ONCE(from->len);
	to->op_flags = READ_ONCE(from->fsync_flags);
	to->reserved = READ_ONCE(from->ioprio) | READ_ONCE(from->buf_index) |
		READ_ONCE(from->personality) | READ_ONCE(from->splice_fd_in) |
		READ_ONCE(from->addr3) | READ_ONCE(from->__pad2[0]);
}

static enum ublk_bpf_reason
ublk_bpf_check_sqe(const struct ublk_bpf_ctx_kern *kctx,
		   const struct ublk_bpf_user_sqe *sqe, u32 target)
{
	const struct ublk_bpf_att *att = kctx->att;
	struct ublk_bpf_req *req = kctx->req;
	enum ublk_bpf_reason reason;
	struct ublk_bpf_sqe *s;

	if (target)
		return UBLK_BPF_REFUSED_SIZE;
	if (req->nr == UBLK_BPF_MAX_SQES)
		return UBLK_BPF_REFUSED_FULL;
	if (sqe->flags & ~(IOSQE_FIXED_FILE | IOSQE_IO_LINK))
		return UBLK_BPF_REFUSED_FLAGS;
	if (sqe->reserved)
		return UBLK_BPF_REFUSED_RESERVED;

	s = &req->sqes[req->nr];
	if (sqe->opcode == IORING_OP_NOP) {
		if (sqe->addr || sqe->off || sqe->len || sqe->op_flags)
			return UBLK_BPF_REFUSED_RESERVED;
		s->opcode = IORING_OP_NOP;
		s->fd = 0;
		return UBLK_BPF_REFUSED_NONE;
	}
	if ((u32)sqe->fd >= att->nr_files)
		return UBLK_BPF_REFUSED_FD;
	s->fd = sqe->fd;

	switch (sqe->opcode) {
	case IORING_OP_READ:
	case IORING_OP_READ_FIXED:
	case IORING_OP_WRITE:
	case IORING_OP_WRITE_FIXED:
		reason = ublk_bpf_check_rw(kctx, &att->files[s->fd], sqe, s);
		break;
	case IORING_OP_FSYNC:
		return ublk_bpf_check_fsync(sqe, s);
	case IORING_OP_FALLOCATE:
		reason = ublk_bpf_check_fallocate(kctx, &att->files[s->fd],
						  sqe, s);
		break;
	default:
		return UBLK_BPF_REFUSED_OPCODE;
	}
	if (reason)
		return reason;
	if (s->off > LLONG_MAX || s->len > LLONG_MAX - s->off)
		return UBLK_BPF_REFUSED_OFF;
	return UBLK_BPF_REFUSED_NONE;
}

/*
 * What bpf_ublk_queue_sqe() does. @usqe is the program's memory and may change
 * while it is read (a map value): it is copied once, and checked after that.
 */
int ublk_bpf_plan_sqe(struct ublk_bpf_ctx_kern *kctx,
		      const struct io_uring_sqe *usqe, u32 sqe_sz, u32 target)
{
	struct ublk_bpf_req *req = kctx->req;
	struct ublk_bpf_user_sqe sqe;
	enum ublk_bpf_reason reason;
	struct ublk_bpf_sqe *s;

	if (unlikely(sqe_sz != sizeof(*usqe))) {
		ublk_bpf_refuse(kctx, UBLK_BPF_REFUSED_SIZE, NULL, sqe_sz);
		req->refused = true;
		return -EINVAL;
	}
	ublk_bpf_copy_sqe(&sqe, usqe);
	reason = ublk_bpf_check_sqe(kctx, &sqe, target);
	if (unlikely(reason)) {
		ublk_bpf_refuse(kctx, reason, &sqe, 0);
		req->refused = true;
		return -ublk_bpf_reason_errno(reason);
	}
	s = &req->sqes[req->nr];
	s->done = 0;
	s->idx = req->nr++;
	s->link = sqe.flags & IOSQE_IO_LINK;
	return 0;
}

static bool ublk_bpf_covers_many(const struct ublk_bpf_req *req, u8 opcode,
				 unsigned int bytes)
{
	const struct ublk_bpf_sqe *s;
	unsigned int end = 0;
	bool more;
	u8 i;

	do {
		more = false;
		for (i = 0; i < req->nr; i++) {
			s = &req->sqes[i];
			if (s->opcode == opcode && s->data_off <= end &&
			    s->data_off + s->len > end) {
				end = s->data_off + s->len;
				more = true;
			}
		}
	} while (more && end < bytes);
	return end >= bytes;
}

/* Do the SQEs with @opcode cover all of the request's data? */
static __always_inline bool ublk_bpf_covers(const struct ublk_bpf_req *req,
					    u8 opcode, unsigned int bytes)
{
	/* data_off + len are within bytes already */
	return likely(req->sqes[0].len == bytes &&
		      req->sqes[0].opcode == opcode) ||
		ublk_bpf_covers_many(req, opcode, bytes);
}

static bool ublk_bpf_fsyncs_all(const struct ublk_bpf_req *req,
				unsigned long written)
{
	u8 i;

	for (i = 0; i < req->nr; i++)
		if (req->sqes[i].opcode == IORING_OP_FSYNC)
			written &= ~BIT(req->sqes[i].fd);
	return !written;
}

/*
 * What FALLOCATEs of one file are for: their union. (Which part of the request
 * each is for only the program knows; a mirror has one for each file.)
 */
static u64 ublk_bpf_fallocates_in(const struct ublk_bpf_req *req, u8 fd)
{
	const struct ublk_bpf_sqe *s;
	u64 sum = 0, from = 0, start;
	u8 i;

	/* from left to right: the next range that has something beyond @from */
	for (;;) {
		const struct ublk_bpf_sqe *next = NULL;

		for (i = 0; i < req->nr; i++) {
			s = &req->sqes[i];
			if (s->opcode == IORING_OP_FALLOCATE && s->fd == fd &&
			    s->off + s->len > from &&
			    (!next || s->off < next->off))
				next = s;
		}
		if (!next)
			return sum;
		start = max(next->off, from);
		from = next->off + next->len;
		sum += from - start;
	}
}

static u64 ublk_bpf_fallocates(const struct ublk_bpf_req *req)
{
	unsigned long seen = 0;
	u64 sum = 0;
	u8 i;

	for (i = 0; i < req->nr; i++) {
		if (req->sqes[i].opcode != IORING_OP_FALLOCATE ||
		    __test_and_set_bit(req->sqes[i].fd, &seen))
			continue;
		sum += ublk_bpf_fallocates_in(req, req->sqes[i].fd);
	}
	return sum;
}

/* The rules for a whole plan, see the uapi header */
static enum ublk_bpf_reason ublk_bpf_check_plan(struct ublk_bpf_ctx_kern *kctx)
{
	struct ublk_bpf_req *req = kctx->req;
	struct request *rq = kctx->rq;
	const unsigned int bytes = blk_rq_bytes(rq);

	if (unlikely(req->refused))
		return UBLK_BPF_REFUSED_PLAN;
	if (unlikely(!req->nr))
		return UBLK_BPF_REFUSED_EMPTY;
	req->sqes[req->nr - 1].link = false;

	switch (req_op(rq)) {
	case REQ_OP_READ:
		/* never let the submitter's old memory look like data */
		if (unlikely(!ublk_bpf_covers(req, IORING_OP_READ, bytes)))
			ublk_bpf_zero_data(rq);
		break;
	case REQ_OP_WRITE:
		if (unlikely(!ublk_bpf_covers(req, IORING_OP_WRITE, bytes)))
			return UBLK_BPF_REFUSED_UNCOVERED;
		break;
	case REQ_OP_WRITE_ZEROES:
		if (unlikely(ublk_bpf_fallocates(req) < bytes))
			return UBLK_BPF_REFUSED_UNCOVERED;
		break;
	case REQ_OP_FLUSH:
		if (unlikely(!ublk_bpf_fsyncs_all(req,
						  READ_ONCE(kctx->att->written))))
			return UBLK_BPF_REFUSED_NO_FSYNC;
		break;
	default:
		break;
	}
	return UBLK_BPF_REFUSED_NONE;
}

/* The attachment with a reference, or NULL */
static struct ublk_bpf_att *ublk_bpf_get_att(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_att *att;

	lockdep_assert_in_rcu_read_lock();
	do {	/* one that is killed has been replaced already */
		att = rcu_dereference(bd->att);
	} while (att && !percpu_ref_tryget_live_rcu(&att->ref));
	return att;
}

/* Must a FLUSH wait, or fail, for what is not attached any more? */
static bool ublk_bpf_hold_flush(struct ublk_bpf_dev *bd, struct request *rq,
				bool refuse)
{
	/* pairs with ublk_bpf_set_att(): who sees the new pointer sees the debt */
	smp_rmb();
	/* pairs with ublk_bpf_update(): what was owed is durable */
	if (likely(!smp_load_acquire(&bd->look_at_flush)))
		return false;
	return __ublk_bpf_hold_flush(bd, rq, refuse);
}

static u32 ublk_bpf_run(struct ublk_bpf_ctx_kern *kctx)
{
	struct ublk_bpf_att *att = kctx->att;
	struct ublk_bpf_req *req = kctx->req;
	struct request *rq = kctx->rq;

	kctx->ctx = (struct ublk_bpf_ctx) {
		.q_id		= rq->mq_hctx->queue_num,
		.tag		= rq->tag,
		.op		= ublk_bpf_op(rq),
		.flags		= ublk_bpf_op_flags(rq),
		.nr_sectors	= blk_rq_sectors(rq),
		/* that of a flush is not set */
		.start_sector	= blk_rq_sectors(rq) ? blk_rq_pos(rq) : 0,
		.dev_id		= att->bd->dev_id,
		.nr_files	= att->nr_files,
	};
	req->rq = rq;
	req->bvec = NULL;
	req->error = 0;
	req->nr = 0;
	req->refused = false;
	return ublk_bpf_face_run(att->prog, kctx);
}

/* Only these two come with pages */
static bool ublk_bpf_has_data(const struct request *rq)
{
	return req_op(rq) == REQ_OP_READ || req_op(rq) == REQ_OP_WRITE;
}

/* The plan stands: the request is ours until it completes */
static void ublk_bpf_redirect(struct ublk_bpf_ctx_kern *kctx,
			      struct ublk_bpf_batch *batch)
{
	struct ublk_bpf_att *att = kctx->att;
	struct ublk_bpf_req *req = kctx->req;
	struct request *rq = kctx->rq;

	this_cpu_inc(att->bd->stats->redirected);
	if (req->nr > 1)	/* the first of each is redirected's */
		this_cpu_add(att->bd->stats->more_sqes, req->nr - 1);
	/*
	 * Owned before it is started: whoever cancels the server's commands
	 * must not take a request that is ours for one that is the server's.
	 */
	WRITE_ONCE(req->att, att);
	smp_wmb();	/* pairs with ublk_bpf_owns_rq() */
	blk_mq_start_request(rq);
	if (likely(!ublk_bpf_has_data(rq) ||
		   ublk_bpf_map_data(req, GFP_NOWAIT)))
		ublk_bpf_execute(req, batch);
	else
		ublk_bpf_map_and_execute(req);
}

/*
 * False: the driver goes on with the request. It does so too if it is going to
 * @refuse it, as there is no server, or the device is being stopped.
 */
bool ublk_bpf_queue_rq(struct ublk_bpf_dev *bd, struct request *rq,
		       struct ublk_bpf_batch *batch, bool refuse)
{
	struct ublk_bpf_ctx_kern kctx __uninitialized;
	enum ublk_bpf_reason reason;
	blk_status_t sts = BLK_STS_IOERR;
	u32 verdict;

	rcu_read_lock();
	kctx.att = ublk_bpf_get_att(bd);
	if (unlikely(req_op(rq) == REQ_OP_FLUSH) &&
	    ublk_bpf_hold_flush(bd, rq, refuse)) {
		rcu_read_unlock();
		if (kctx.att)
			percpu_ref_put(&kctx.att->ref);
		return true;
	}
	if (!kctx.att || unlikely(refuse)) {
		rcu_read_unlock();
		if (kctx.att)
			percpu_ref_put(&kctx.att->ref);
		return false;
	}
	kctx.rq = rq;
	kctx.req = ublk_bpf_rq_data(rq);
	verdict = ublk_bpf_run(&kctx);
	rcu_read_unlock();

	switch (verdict) {
	case UBLK_BPF_IO_REDIRECT:
		reason = ublk_bpf_check_plan(&kctx);
		if (likely(!reason)) {
			ublk_bpf_redirect(&kctx, batch);
			return true;
		}
		ublk_bpf_refuse(&kctx, reason, NULL, verdict);
		this_cpu_inc(bd->stats->aborted);
		break;
	case UBLK_BPF_IO_PASS:
		this_cpu_inc(bd->stats->passed);
		percpu_ref_put(&kctx.att->ref);
		return false;
	case UBLK_BPF_IO_DROP:
		this_cpu_inc(bd->stats->dropped);
		if (req_op(rq) == REQ_OP_READ)
			ublk_bpf_zero_data(rq);
		sts = BLK_STS_OK;
		break;
	default:
		ublk_bpf_refuse(&kctx, UBLK_BPF_REFUSED_VERDICT, NULL, verdict);
		fallthrough;
	case UBLK_BPF_IO_ABORTED:
		this_cpu_inc(bd->stats->aborted);
		break;
	}
	percpu_ref_put(&kctx.att->ref);
	blk_mq_start_request(rq);
	ublk_bpf_end_rq(rq, sts);
	return true;
}
EXPORT_SYMBOL_GPL(ublk_bpf_queue_rq);

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
