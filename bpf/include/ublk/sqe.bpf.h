/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers that queue the usual SQEs. All lengths and offsets are in bytes, @fd
 * indexes the files given at attach, @data is the offset in the request's data.
 * Each returns what bpf_ublk_queue_sqe() does: 0 or a negative errno, which may
 * be ignored when the verdict is UBLK_BPF_IO_REDIRECT (the request fails then).
 *
 * Those whose names end in _with take what the completion program finds in
 * ctx->user_data, if it is the first SQE of the plan; the others leave it 0, or
 * what <ublk/latency.bpf.h> needs, if that was included before.
 *
 * They are all one inlined body whose constants fold, as they run for each
 * request.
 */
#ifndef UBLK_SQE_BPF_H
#define UBLK_SQE_BPF_H

#include <linux/falloc.h>
#include <ublk/ublk.bpf.h>

#ifndef UBLK_BPF_USER_DATA
#define UBLK_BPF_USER_DATA()	0
#endif

/* 512 bytes, whatever the logical block size of the device is */
#define UBLK_BPF_SECTOR_SHIFT	9

static __always_inline __u64 ublk_bpf_start_bytes(const struct ublk_bpf_ctx *ctx)
{
	return ctx->start_sector << UBLK_BPF_SECTOR_SHIFT;
}

/* A 32 bit number of bytes holds any request: DISCARD is limited to that too */
static __always_inline __u32 ublk_bpf_len_bytes(const struct ublk_bpf_ctx *ctx)
{
	return ctx->nr_sectors << UBLK_BPF_SECTOR_SHIFT;
}

/* Any SQE. @op_flags are the ->rw_flags or ->fsync_flags, @flags the ->flags */
static __always_inline int ublk_bpf_queue_with(struct ublk_bpf_ctx *ctx,
					       __u8 opcode, __s32 fd, __u64 off,
					       __u64 addr, __u32 len,
					       __u32 op_flags, __u8 flags,
					       __u64 user_data)
{
	union {
		struct io_uring_sqe sqe;
		__u64 words[8];
	} u;

	/* of an initializer, clang makes stores of single bytes */
	u.words[4] = user_data;
	u.words[5] = 0;
	u.words[6] = 0;
	u.words[7] = 0;
	u.sqe.opcode = opcode;
	u.sqe.flags = flags;
	u.sqe.ioprio = 0;
	u.sqe.fd = fd;
	u.sqe.off = off;
	u.sqe.addr = addr;
	u.sqe.len = len;
	u.sqe.rw_flags = op_flags;
	return bpf_ublk_queue_sqe(ctx, &u.sqe, sizeof(u.sqe), 0);
}

static __always_inline int ublk_bpf_queue(struct ublk_bpf_ctx *ctx, __u8 opcode,
					  __s32 fd, __u64 off, __u64 addr,
					  __u32 len, __u32 op_flags, __u8 flags)
{
	return ublk_bpf_queue_with(ctx, opcode, fd, off, addr, len, op_flags,
				   flags, UBLK_BPF_USER_DATA());
}

/* Read or write, whichever the request does; ctx->op must be one of the two */
static __always_inline int ublk_bpf_queue_rw_with(struct ublk_bpf_ctx *ctx,
						  __s32 fd, __u64 off,
						  __u64 data, __u32 len,
						  __u64 user_data)
{
	_Static_assert(UBLK_IO_OP_READ == 0 && UBLK_IO_OP_WRITE == 1 &&
		       IORING_OP_WRITE == IORING_OP_READ + 1,
		       "opcode from operation by addition");

	return ublk_bpf_queue_with(ctx, IORING_OP_READ + ctx->op, fd, off, data,
				   len, 0, 0, user_data);
}

static __always_inline int ublk_bpf_queue_rw(struct ublk_bpf_ctx *ctx, __s32 fd,
					     __u64 off, __u64 data, __u32 len)
{
	return ublk_bpf_queue_rw_with(ctx, fd, off, data, len,
				      UBLK_BPF_USER_DATA());
}

/* All data of the file that was written before reaches stable storage */
static __always_inline int ublk_bpf_queue_fsync_with(struct ublk_bpf_ctx *ctx,
						     __s32 fd, __u64 user_data)
{
	return ublk_bpf_queue_with(ctx, IORING_OP_FSYNC, fd, 0, 0, 0,
				   IORING_FSYNC_DATASYNC, 0, user_data);
}

static __always_inline int ublk_bpf_queue_fsync(struct ublk_bpf_ctx *ctx,
						__s32 fd)
{
	return ublk_bpf_queue_fsync_with(ctx, fd, UBLK_BPF_USER_DATA());
}

/*
 * For a DISCARD or a WRITE_ZEROES: the range reads as zeroes afterwards, and
 * gives its space back unless the request forbids that.
 */
static __always_inline int ublk_bpf_queue_zero_with(struct ublk_bpf_ctx *ctx,
						    __s32 fd, __u64 off,
						    __u64 len, __u64 user_data)
{
	__u32 mode = ctx->flags & UBLK_IO_F_NOUNMAP ?
			FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE :
			FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

	return ublk_bpf_queue_with(ctx, IORING_OP_FALLOCATE, fd, off, len, mode,
				   0, 0, user_data);
}

static __always_inline int ublk_bpf_queue_zero(struct ublk_bpf_ctx *ctx,
					       __s32 fd, __u64 off, __u64 len)
{
	return ublk_bpf_queue_zero_with(ctx, fd, off, len,
					UBLK_BPF_USER_DATA());
}

/*
 * The whole request on one file, from byte @off of it on: what `loop` does. A
 * flush is an fdatasync. Returns the verdict: UBLK_BPF_IO_REDIRECT, or
 * UBLK_BPF_IO_PASS for an operation that no SQE stands for.
 */
static __always_inline int ublk_bpf_queue_all_with(struct ublk_bpf_ctx *ctx,
						   __s32 fd, __u64 off,
						   __u64 user_data)
{
	__u32 len = ublk_bpf_len_bytes(ctx);

	if (ctx->op <= UBLK_IO_OP_WRITE)
		ublk_bpf_queue_rw_with(ctx, fd, off, 0, len, user_data);
	else if (ctx->op == UBLK_IO_OP_FLUSH)
		ublk_bpf_queue_fsync_with(ctx, fd, user_data);
	else if (ctx->op == UBLK_IO_OP_DISCARD ||
		 ctx->op == UBLK_IO_OP_WRITE_ZEROES)
		ublk_bpf_queue_zero_with(ctx, fd, off, len, user_data);
	else
		return UBLK_BPF_IO_PASS;
	return UBLK_BPF_IO_REDIRECT;
}

static __always_inline int ublk_bpf_queue_all(struct ublk_bpf_ctx *ctx,
					      __s32 fd, __u64 off)
{
	return ublk_bpf_queue_all_with(ctx, fd, off, UBLK_BPF_USER_DATA());
}

#endif
