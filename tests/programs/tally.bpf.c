// SPDX-License-Identifier: GPL-2.0
/* tally: counts requests by operation, in a map, and notes where the last one was. */
#include "loop_body.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 6);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

__u64 last_sector;

UBLK_BPF(tally)
{
	__u32 op = ctx->op;
	__u64 *count = bpf_map_lookup_elem(&counts, &op);

	if (count)
		__sync_fetch_and_add(count, 1);
	last_sector = ctx->start_sector;
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
