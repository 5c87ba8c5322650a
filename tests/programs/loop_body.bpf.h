/* SPDX-License-Identifier: GPL-2.0 */
/* The mapping that many of the test programs vary: file `fd` is the device. */
#ifndef LOOP_BODY_BPF_H
#define LOOP_BODY_BPF_H

#include <ublk/sqe.bpf.h>

/* 0, what bpf_ublk_queue_sqe() returned, or 1 for an operation that has no SQE */
static __always_inline int queue_loop(struct ublk_bpf_ctx *ctx, __s32 fd)
{
	__u64 off = ublk_bpf_start_bytes(ctx);
	__u32 len = ublk_bpf_len_bytes(ctx);

	switch (ctx->op) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
		return ublk_bpf_queue_rw(ctx, fd, off, 0, len);
	case UBLK_IO_OP_FLUSH:
		return ublk_bpf_queue_fsync(ctx, fd);
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		return ublk_bpf_queue_zero(ctx, fd, off, len);
	default:
		return 1;
	}
}

/* The same as a verdict, for programs that stray from it for some requests */
static __always_inline int loop_verdict(struct ublk_bpf_ctx *ctx)
{
	return queue_loop(ctx, 0) == 1 ? UBLK_BPF_IO_PASS : UBLK_BPF_IO_REDIRECT;
}

#endif
