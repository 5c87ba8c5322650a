// SPDX-License-Identifier: GPL-2.0
/*
 * bad_map_ctx: the verifier must refuse it, as it calls the kfunc with memory of
 * its own, which merely looks like a context.
 */
#include "loop_body.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ublk_bpf_ctx);
} forged SEC(".maps");

UBLK_BPF(bad_map_ctx)
{
	struct ublk_bpf_ctx *mine;
	__u32 key = 0;

	mine = bpf_map_lookup_elem(&forged, &key);
	if (mine)
		ublk_bpf_queue_fsync(mine, 0);
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
