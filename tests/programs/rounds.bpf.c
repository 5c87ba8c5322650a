// SPDX-License-Identifier: GPL-2.0
/*
 * rounds: loop, but a READ is made of parts of `part_sectors`, one after the
 * other: the first one is planned at once, each other one when the one before it
 * is done. ->user_data is how many sectors are done then. With `endless` the
 * last part is read again and again.
 */
#include "loop_body.bpf.h"

const volatile __u32 part_sectors = 8;
const volatile _Bool endless;

/* 0 if there was nothing left to queue */
static __always_inline __u32 queue_part(struct ublk_bpf_ctx *ctx, __u64 done)
{
	__u32 nr = part_sectors;

	if (endless && done >= ctx->nr_sectors)
		done = 0;
	if (done >= ctx->nr_sectors)
		return 0;
	if (nr > ctx->nr_sectors - done)
		nr = ctx->nr_sectors - done;
	ublk_bpf_queue_rw_with(ctx, 0, (ctx->start_sector + done) << UBLK_BPF_SECTOR_SHIFT,
			       done << UBLK_BPF_SECTOR_SHIFT,
			       nr << UBLK_BPF_SECTOR_SHIFT, done + nr);
	return nr;
}

UBLK_BPF(rounds)
{
	if (ctx->op != UBLK_IO_OP_READ)
		return loop_verdict(ctx);
	queue_part(ctx, 0);
	return UBLK_BPF_IO_REDIRECT;
}

UBLK_BPF_COMPLETE(rounds)
{
	if (ctx->op != UBLK_IO_OP_READ || ctx->result)
		return ctx->result;
	return queue_part(ctx, ctx->user_data) ? UBLK_BPF_IO_REDIRECT : 0;
}

char _license[] SEC("license") = "GPL";
