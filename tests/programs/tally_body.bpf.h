/* SPDX-License-Identifier: GPL-2.0 */
/* Counts requests by operation, in a map of ENTRIES, and notes where the last one was. */
#ifndef TALLY_BODY_BPF_H
#define TALLY_BODY_BPF_H

#include "loop_body.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

__u64 last_sector;

static __always_inline int tally_verdict(struct ublk_bpf_ctx *ctx)
{
	__u32 op = ctx->op;
	__u64 *count = bpf_map_lookup_elem(&counts, &op);

	if (count)
		__sync_fetch_and_add(count, 1);
	last_sector = ctx->start_sector;
	return loop_verdict(ctx);
}

#endif
