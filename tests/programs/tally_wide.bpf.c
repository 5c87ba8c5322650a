// SPDX-License-Identifier: GPL-2.0
/* tally_wide: tally, whose map is larger. */
#define ENTRIES	12
#include "tally_body.bpf.h"

UBLK_BPF(tally_wide)
{
	return tally_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
