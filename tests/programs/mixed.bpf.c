// SPDX-License-Identifier: GPL-2.0
/*
 * mixed: loop for about half of the 4 KiB blocks, by a hash of the first one of
 * the request; the server serves the others from the same file.
 */
#include "loop_body.bpf.h"

UBLK_BPF(mixed)
{
	__u64 hash = (ctx->start_sector >> 3) * 0x9e3779b97f4a7c15ULL;

	if (hash >> 63)
		return UBLK_BPF_IO_PASS;
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
