// SPDX-License-Identifier: GPL-2.0
/*
 * half: reads only the first sector of each READ, the rest must be zeroes and
 * not old memory. With `hole` 1 it reads all but the first sector. Of a WRITE
 * it maps the first sector only when `writes` is 1: that must fail whole.
 */
#include "loop_body.bpf.h"

const volatile _Bool hole;
const volatile _Bool writes;

UBLK_BPF(half)
{
	__u64 off = ublk_bpf_start_bytes(ctx);

	if (ctx->op == UBLK_IO_OP_READ && hole)
		ublk_bpf_queue_rw(ctx, 0, off + 512, 512,
				  ublk_bpf_len_bytes(ctx) - 512);
	else if (ctx->op == UBLK_IO_OP_READ ||
		 (ctx->op == UBLK_IO_OP_WRITE && writes))
		ublk_bpf_queue_rw(ctx, 0, off, 0, 512);
	else if (ctx->op == UBLK_IO_OP_WRITE_ZEROES && writes)
		ublk_bpf_queue_zero(ctx, 0, off, 512);
	else
		return loop_verdict(ctx);
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
