// SPDX-License-Identifier: GPL-2.0
//
// mypolicy: reads and writes go to the device's file, from `offset` on; what is neither is the server's.
#include <ublk/sqe.bpf.h>

/* A knob: attach --set offset=1M */
const volatile __u64 offset = 0;

/* A map: how many requests it has seen, by operation. bpftool map dump name seen */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

UBLK_BPF(mypolicy)
{
	__u64 off = ublk_bpf_start_bytes(ctx);
	__u32 len = ublk_bpf_len_bytes(ctx);
	__u32 op = ctx->op;
	__u64 *count = bpf_map_lookup_elem(&seen, &op);

	if (count)
		__sync_fetch_and_add(count, 1);
	if (op == UBLK_IO_OP_READ || op == UBLK_IO_OP_WRITE)
		ublk_bpf_queue_rw(ctx, 0, offset + off, 0, len);
	else if (op == UBLK_IO_OP_FLUSH)
		ublk_bpf_queue_fsync(ctx, 0);
	else
		return UBLK_BPF_IO_PASS;
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
