// SPDX-License-Identifier: GPL-2.0
/* two: two programs in one object, so that one must be named. */
#include "loop_body.bpf.h"

UBLK_BPF(first)
{
	return loop_verdict(ctx);
}

UBLK_BPF(second)
{
	return UBLK_BPF_IO_DROP;
}

char _license[] SEC("license") = "GPL";
