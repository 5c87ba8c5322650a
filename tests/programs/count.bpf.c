// SPDX-License-Identifier: GPL-2.0
/*
 * count: loop, with a NOP more for each request of operation `op` and for each
 * with one of `flags`. So the device's own counters tell how many there were:
 * sqes - redirected.
 */
#include "loop_body.bpf.h"

const volatile __u32 op = 0xff;
const volatile __u32 flags;

UBLK_BPF(count)
{
	if (ctx->op == op || (ctx->flags & flags))
		ublk_bpf_queue(ctx, IORING_OP_NOP, 0, 0, 0, 0, 0, 0);
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
