// SPDX-License-Identifier: GPL-2.0
/* completed: loop with a completion program that changes nothing: what it costs to have one. */
#include "loop_body.bpf.h"

UBLK_BPF(completed)
{
	return loop_verdict(ctx);
}

UBLK_BPF_COMPLETE(completed)
{
	return ctx->result;
}

char _license[] SEC("license") = "GPL";
