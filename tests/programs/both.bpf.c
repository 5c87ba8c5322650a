// SPDX-License-Identifier: GPL-2.0
/* both: loop on file 0 and on file 1 for all that changes data; reads come from file 0. */
#include "loop_body.bpf.h"

UBLK_BPF(both)
{
	if (queue_loop(ctx, 0) == 1)
		return UBLK_BPF_IO_PASS;
	if (ctx->op != UBLK_IO_OP_READ)
		queue_loop(ctx, 1);
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
