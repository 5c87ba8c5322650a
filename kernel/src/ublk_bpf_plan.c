// SPDX-License-Identifier: GPL-2.0
/*
 * Checks the SQEs that a program queues, and the plan that they make. Nothing
 * is issued from here.
 */
#include <linux/types.h>
#include <linux/bio.h>
#include <linux/falloc.h>
#include "ublk_bpf_int.h"

/* What is read of a program's struct io_uring_sqe, which may change meanwhile */
struct ublk_bpf_user_sqe {
	u64	off;
	u64	addr;
	u64	user_data;
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

/* Count a refusal and remember it; @sqe is NULL for a whole plan or a verdict */
static noinline void
__ublk_bpf_refuse(struct ublk_bpf_ctx_kern *kctx, enum ublk_bpf_reason reason,
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

void ublk_bpf_refuse(struct ublk_bpf_ctx_kern *kctx,
		     enum ublk_bpf_reason reason, u32 verdict)
{
	__ublk_bpf_refuse(kctx, reason, NULL, verdict);
}

static enum ublk_bpf_reason
ublk_bpf_check_rw(const struct ublk_bpf_ctx_kern *kctx,
		  const struct ublk_bpf_file *f, const struct ublk_bpf_user_sqe *sqe,
		  struct ublk_bpf_sqe *s)
{
	const struct ublk_bpf_req *req = kctx->req;
	const unsigned int bytes = req->bytes;
	const bool write = sqe->opcode == IORING_OP_WRITE ||
			   sqe->opcode == IORING_OP_WRITE_FIXED;
	const u32 mask = write ? f->write_mask : f->read_mask;

	if (ublk_bpf_req_op(req) != (write ? REQ_OP_WRITE : REQ_OP_READ))
		return UBLK_BPF_REFUSED_DIRECTION;
	if (!(f->file->f_mode & (write ? FMODE_WRITE : FMODE_READ)))
		return UBLK_BPF_REFUSED_FILE_MODE;
	if (!sqe->len)
		return UBLK_BPF_REFUSED_LEN;
	if (sqe->addr >= bytes || sqe->len > bytes - sqe->addr)
		return UBLK_BPF_REFUSED_DATA;
	if (sqe->op_flags & ~(__force u32)UBLK_BPF_RW_FLAGS)
		return UBLK_BPF_REFUSED_RW_FLAGS;
	/*
	 * The request's own data is aligned as the device promises. What is cut
	 * out of it must not be less so: a driver takes it for other data,
	 * without a word.
	 */
	if (unlikely(sqe->addr & (mask | f->mem_mask)))
		return UBLK_BPF_REFUSED_DATA;
	if (unlikely(sqe->len & mask))
		return UBLK_BPF_REFUSED_LEN;
	if (unlikely(sqe->off & mask))
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
	const enum req_op op = ublk_bpf_req_op(kctx->req);

	if (op != REQ_OP_DISCARD && op != REQ_OP_WRITE_ZEROES)
		return UBLK_BPF_REFUSED_DIRECTION;
	if (!(f->file->f_mode & FMODE_WRITE))
		return UBLK_BPF_REFUSED_FILE_MODE;
	if (sqe->op_flags)
		return UBLK_BPF_REFUSED_RESERVED;
	if (sqe->len != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    sqe->len != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		return UBLK_BPF_REFUSED_MODE;
	if (!sqe->addr || sqe->addr > kctx->req->bytes)
		return UBLK_BPF_REFUSED_LEN;

	s->opcode = IORING_OP_FALLOCATE;
	s->off = sqe->off;
	s->len = sqe->addr;
	s->op_flags = sqe->len;
	return UBLK_BPF_REFUSED_NONE;
}

/* Each word once, as the program's memory may change meanwhile */
static __always_inline void ublk_bpf_copy_sqe(struct ublk_bpf_user_sqe *to,
					      const struct io_uring_sqe *from)
{
	const u64 *words = (const u64 *)from;
	union {
		u64	word;
		struct {
			u8	opcode;
			u8	flags;
			u16	ioprio;
			s32	fd;
		};
	} first = { .word = READ_ONCE(words[0]) };
	union {
		u64	word;
		struct {
			u32	len;
			u32	op_flags;
		};
	} fourth = { .word = READ_ONCE(words[3]) };

	BUILD_BUG_ON(offsetof(struct io_uring_sqe, off) != 8 ||
		     offsetof(struct io_uring_sqe, addr) != 16 ||
		     offsetof(struct io_uring_sqe, len) != 24 ||
		     offsetof(struct io_uring_sqe, user_data) != 32);
	to->opcode = first.opcode;
	to->flags = first.flags;
	to->fd = first.fd;
	to->off = READ_ONCE(words[1]);
	to->addr = READ_ONCE(words[2]);
	to->len = fourth.len;
	to->op_flags = fourth.op_flags;
	to->user_data = READ_ONCE(words[4]);
	/* ->buf_index, ->personality, ->splice_fd_in, ->addr3, ->__pad2 */
	to->reserved = first.ioprio | READ_ONCE(words[5]) |
		READ_ONCE(words[6]) | READ_ONCE(words[7]);
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
		s->off = 0;
		s->len = 0;
		s->data_off = 0;
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

/* Any SQE: what is wrong with it is counted, and told */
static noinline int ublk_bpf_plan_any(struct ublk_bpf_ctx_kern *kctx,
				      const struct ublk_bpf_user_sqe *sqe,
				      u32 target)
{
	struct ublk_bpf_req *req = kctx->req;
	enum ublk_bpf_reason reason;
	struct ublk_bpf_sqe *s;

	reason = ublk_bpf_check_sqe(kctx, sqe, target);
	if (unlikely(reason)) {
		__ublk_bpf_refuse(kctx, reason, sqe, 0);
		req->refused = true;
		return -ublk_bpf_reason_errno(reason);
	}
	if (!req->nr)
		req->user_data = sqe->user_data;
	s = &req->sqes[req->nr];
	s->done = 0;
	s->idx = req->nr++;
	s->link = sqe->flags & IOSQE_IO_LINK;
	return 0;
}

/*
 * What most plans consist of: a READ or WRITE of all the request's data, or, for
 * a mirror, some. False, with nothing done, if it is any other, or if anything
 * is wrong with it.
 */
static __always_inline bool
ublk_bpf_plan_plain(struct ublk_bpf_ctx_kern *kctx,
		    const struct ublk_bpf_user_sqe *sqe, u32 target)
{
	const struct ublk_bpf_att *att = kctx->att;
	struct ublk_bpf_req *req = kctx->req;
	const enum req_op op = ublk_bpf_req_op(req);
	const struct ublk_bpf_file *f;
	const u8 nr = req->nr;
	struct ublk_bpf_sqe *s;
	u32 mask;

	if (op > REQ_OP_WRITE ||
	    sqe->opcode != IORING_OP_READ + (__force u32)op)
		return false;
	if (target | sqe->flags | sqe->op_flags ||
	    sqe->reserved | sqe->addr || nr == UBLK_BPF_MAX_SQES)
		return false;
	if (!sqe->len || sqe->len != req->bytes ||
	    (u32)sqe->fd >= att->nr_files)
		return false;
	f = att->files + sqe->fd;
	if (!(f->file->f_mode & (op == REQ_OP_WRITE ? FMODE_WRITE : FMODE_READ)))
		return false;
	mask = op == REQ_OP_WRITE ? f->write_mask : f->read_mask;
	if ((sqe->off | sqe->len) & mask || sqe->off > LLONG_MAX - sqe->len)
		return false;

	s = &req->sqes[nr];
	s->off = sqe->off;
	s->len = sqe->len;
	s->data_off = 0;
	s->done = 0;
	s->op_flags = 0;
	s->opcode = sqe->opcode;
	s->fd = sqe->fd;
	s->idx = nr;
	s->link = false;
	if (!nr)
		req->user_data = sqe->user_data;
	req->nr = nr + 1;
	return true;
}

/*
 * What bpf_ublk_queue_sqe() does. @usqe is the program's memory and may change
 * while it is read (a map value): it is copied once, and checked after that.
 */
int ublk_bpf_plan_sqe(struct ublk_bpf_ctx_kern *kctx,
		      const struct io_uring_sqe *usqe, u32 sqe_sz, u32 target)
{
	struct ublk_bpf_user_sqe sqe __uninitialized, any __uninitialized;

	/* as REQ_OP_WRITE is to REQ_OP_READ */
	BUILD_BUG_ON(IORING_OP_WRITE - IORING_OP_READ != 1);
	if (unlikely(sqe_sz != sizeof(*usqe))) {
		ublk_bpf_refuse(kctx, UBLK_BPF_REFUSED_SIZE, sqe_sz);
		kctx->req->refused = true;
		return -EINVAL;
	}
	ublk_bpf_copy_sqe(&sqe, usqe);
	if (likely(ublk_bpf_plan_plain(kctx, &sqe, target)))
		return 0;
	/* a copy, so that the other one need not be in memory */
	any = sqe;
	return ublk_bpf_plan_any(kctx, &any, target);
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

/* Of a request's data, in bytes: reads as zeroes */
void ublk_bpf_zero_range(struct ublk_bpf_req *req, u32 off, u32 len)
{
	struct bvec_iter iter, part;
	struct bio_vec bv;
	struct bio *bio;

	for (bio = req->bio; bio && len; bio = bio->bi_next) {
		iter = bio->bi_iter;
		if (off >= iter.bi_size) {
			off -= iter.bi_size;
			continue;
		}
		bio_advance_iter(bio, &iter, off);
		off = 0;
		iter.bi_size = min(iter.bi_size, len);
		len -= iter.bi_size;
		__bio_for_each_segment(bv, bio, part, iter)
			memzero_bvec(&bv);
	}
}

void ublk_bpf_zero_data(struct ublk_bpf_req *req)
{
	ublk_bpf_zero_range(req, 0, req->bytes);
}

/*
 * The rules for a whole plan, see the uapi header. What comes after a plan that
 * has done what these ask for need not do it again.
 */
enum ublk_bpf_reason __ublk_bpf_check_plan(struct ublk_bpf_ctx_kern *kctx)
{
	struct ublk_bpf_req *req = kctx->req;

	if (unlikely(req->refused))
		return UBLK_BPF_REFUSED_PLAN;
	if (unlikely(!req->nr))
		return UBLK_BPF_REFUSED_EMPTY;
	req->sqes[req->nr - 1].link = false;
	if (req->round && !kctx->ctx.result)
		return UBLK_BPF_REFUSED_NONE;

	switch (ublk_bpf_req_op(req)) {
	case REQ_OP_READ:
		/*
		 * Never let the submitter's old memory look like data. (What
		 * could not be read by the plan before is zeroes already.)
		 */
		if (unlikely(!req->round &&
			     !ublk_bpf_covers(req, IORING_OP_READ, req->bytes)))
			ublk_bpf_zero_data(req);
		break;
	case REQ_OP_WRITE:
		if (unlikely(!ublk_bpf_covers(req, IORING_OP_WRITE,
					      req->bytes)))
			return UBLK_BPF_REFUSED_UNCOVERED;
		break;
	case REQ_OP_WRITE_ZEROES:
		if (unlikely(ublk_bpf_fallocates(req) < req->bytes))
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
