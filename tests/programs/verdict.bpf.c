// SPDX-License-Identifier: GPL-2.0
/*
 * verdict: queues the SQE of loop, then returns `verdict`, whatever it is, for
 * the operation `op`; other requests are those of loop. With `plan` 0 it
 * returns the verdict without any SQE.
 */
#include "loop_body.bpf.h"

const volatile __s32 verdict;
const volatile __u32 op = UBLK_IO_OP_WRITE;
const volatile _Bool plan = 1;

UBLK_BPF(verdict_of_knob)
{
	if (ctx->op != op)
		return loop_verdict(ctx);
	if (plan)
		queue_loop(ctx, 0);
	return verdict;
}

char _license[] SEC("license") = "GPL";
