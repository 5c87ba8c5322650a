// SPDX-License-Identifier: GPL-2.0
/* subprog: loop in a function of its own, which is verified with the context. */
#include "loop_body.bpf.h"

static __noinline int serve(struct ublk_bpf_ctx *ctx)
{
	return loop_verdict(ctx);
}

UBLK_BPF(subprog)
{
	return serve(ctx);
}

char _license[] SEC("license") = "GPL";
