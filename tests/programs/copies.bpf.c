// SPDX-License-Identifier: GPL-2.0
/* copies: what changes data goes to files 0 and 1, reads come from `read_from`. */
#include "loop_body.bpf.h"

const volatile __u32 read_from;

UBLK_BPF(copies)
{
	if (ctx->op == UBLK_IO_OP_READ) {
		queue_loop(ctx, read_from);
		return UBLK_BPF_IO_REDIRECT;
	}
	if (queue_loop(ctx, 0) == 1)
		return UBLK_BPF_IO_PASS;
	queue_loop(ctx, 1);
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
