// SPDX-License-Identifier: GPL-2.0
/*
 * linked: writes go to file 0 at byte `first_off` more than their place, then,
 * linked to that unless `link` is 0, to file 1 in their place, then, linked
 * too, an fdatasync of file 1. The rest is loop on file 1, flushes go to both.
 *
 * With an offset beyond the end of a block device the first SQE fails, and what
 * is linked to it must not reach file 1.
 */
#include "loop_body.bpf.h"

const volatile __u64 first_off;
const volatile _Bool link = 1;

UBLK_BPF(linked)
{
	__u64 off = ublk_bpf_start_bytes(ctx);
	__u32 len = ublk_bpf_len_bytes(ctx);
	__u8 flags = link ? IOSQE_IO_LINK : 0;

	if (ctx->op == UBLK_IO_OP_FLUSH)
		ublk_bpf_queue_fsync(ctx, 0);
	if (ctx->op != UBLK_IO_OP_WRITE)
		return queue_loop(ctx, 1) == 1 ? UBLK_BPF_IO_PASS :
						 UBLK_BPF_IO_REDIRECT;
	ublk_bpf_queue(ctx, IORING_OP_WRITE, 0, off + first_off, 0, len, 0, flags);
	ublk_bpf_queue(ctx, IORING_OP_WRITE, 1, off, 0, len, 0, flags);
	ublk_bpf_queue_fsync(ctx, 1);
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
