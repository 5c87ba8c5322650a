// SPDX-License-Identifier: GPL-2.0
/* eighth: redirects the last of each eight READs or WRITEs that are 8 KiB apart, from 0 on, and passes those before it. */
#include "loop_body.bpf.h"

UBLK_BPF(eighth)
{
	if (ctx->op <= UBLK_IO_OP_WRITE && (ctx->start_sector >> 4 & 7) != 7)
		return UBLK_BPF_IO_PASS;
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
