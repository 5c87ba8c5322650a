// SPDX-License-Identifier: GPL-2.0
/* passflush: loop, but the server does the flushes. */
#include "loop_body.bpf.h"

UBLK_BPF(passflush)
{
	if (ctx->op == UBLK_IO_OP_FLUSH)
		return UBLK_BPF_IO_PASS;
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
