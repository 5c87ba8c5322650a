// SPDX-License-Identifier: GPL-2.0
/* tally: loop that counts its requests. */
#define ENTRIES	6
#include "tally_body.bpf.h"

UBLK_BPF(tally)
{
	return tally_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
