// SPDX-License-Identifier: GPL-2.0
/*
 * complete: loop, whose completion program notes what it was told in `last`, and
 * returns `verdict` (or, for 1000, the result) for requests of operation `op`,
 * with `failed_only` for those of them that have failed. For all others it
 * returns their result.
 *
 * With `rounds` not 0 it has these requests executed so many times more before
 * that; from round `other_from` on, on file 1 instead of file 0.
 */
#include "loop_body.bpf.h"

const volatile __u32 op = 0xff;
const volatile __s32 verdict;
const volatile _Bool failed_only;
const volatile __u8 rounds;
const volatile __u8 other_from = 0xff;

/* what ->user_data is of requests of `op`, and of those in later rounds */
#define MARK	0x1234567800000000ULL

#define AS_IT_IS	1000

/*
 * Volatile, as each field is to be copied by itself: a wider load that has two of
 * them is refused by the verifier on the face of struct_ops.
 */
struct seen {
	__u64 runs;
	volatile struct ublk_bpf_ctx ctx;
} last;

UBLK_BPF(complete)
{
	if (ctx->op == op && ctx->op <= UBLK_IO_OP_WRITE) {
		ublk_bpf_queue_rw_with(ctx, 0, ublk_bpf_start_bytes(ctx), 0,
				       ublk_bpf_len_bytes(ctx), MARK);
		return UBLK_BPF_IO_REDIRECT;
	}
	return loop_verdict(ctx);
}

static __always_inline void note(const struct ublk_bpf_ctx *ctx)
{
	last.ctx.q_id = ctx->q_id;
	last.ctx.tag = ctx->tag;
	last.ctx.op = ctx->op;
	last.ctx.round = ctx->round;
	last.ctx.failed = ctx->failed;
	last.ctx.flags = ctx->flags;
	last.ctx.nr_sectors = ctx->nr_sectors;
	last.ctx.start_sector = ctx->start_sector;
	last.ctx.dev_id = ctx->dev_id;
	last.ctx.nr_files = ctx->nr_files;
	last.ctx.result = ctx->result;
	last.ctx.user_data = ctx->user_data;
	__sync_fetch_and_add(&last.runs, 1);
}

static __always_inline int again(struct ublk_bpf_ctx *ctx)
{
	__s32 fd = ctx->round >= other_from;

	if (ctx->op > UBLK_IO_OP_WRITE)
		queue_loop(ctx, fd);
	else
		ublk_bpf_queue_rw_with(ctx, fd, ublk_bpf_start_bytes(ctx), 0,
				       ublk_bpf_len_bytes(ctx),
				       ctx->user_data + 1);
	return UBLK_BPF_IO_REDIRECT;
}

UBLK_BPF_COMPLETE(complete)
{
	if (ctx->op != op || (failed_only && !ctx->result))
		return ctx->result;
	note(ctx);
	if (ctx->round <= rounds)
		return again(ctx);
	return verdict == AS_IT_IS ? ctx->result : verdict;
}

char _license[] SEC("license") = "GPL";
