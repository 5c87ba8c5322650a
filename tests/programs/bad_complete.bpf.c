// SPDX-License-Identifier: GPL-2.0
/* bad_complete: the verifier takes the program and must refuse its completion half, which writes to the context. */
#include "loop_body.bpf.h"

UBLK_BPF(bad_complete)
{
	return loop_verdict(ctx);
}

UBLK_BPF_COMPLETE(bad_complete)
{
	ctx->result = 0;
	return 0;
}

char _license[] SEC("license") = "GPL";
