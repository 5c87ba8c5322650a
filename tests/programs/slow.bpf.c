// SPDX-License-Identifier: GPL-2.0
/* slow: loop, but it takes some milliseconds for each request, in which something else may happen. */
#include "loop_body.bpf.h"
#include "spin.bpf.h"

UBLK_BPF(slow)
{
	spin(1 << 15);
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
