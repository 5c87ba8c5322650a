// SPDX-License-Identifier: GPL-2.0
/* bad_loop: the verifier must refuse it, as it may never end. */
#include <ublk/ublk.bpf.h>

UBLK_BPF(bad_loop)
{
	volatile __u64 i = ctx->start_sector;

	while (i != 1)
		i = i & 1 ? 3 * i + 1 : i / 2;
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
