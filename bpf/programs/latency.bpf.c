// SPDX-License-Identifier: GPL-2.0
/*
 * latency: what `loop` does, and it notes how long each request took: from
 * when the program saw it to when its last SQE was done, in a histogram per
 * operation and processor. `ublk-bpf stat` shows it.
 *
 * It does not note requests that it passes to the server, nor the time that a
 * request has waited before: for a tag, in an I/O scheduler. Over another
 * mapping than loop's, the two halves stay as they are: the time of the entry
 * is the user_data of the plan's first SQE.
 */
#include <ublk/sqe.bpf.h>
#include <ublk_bpf_maps.h>

/* where in the file the device begins, bytes; a multiple of its block size */
const volatile __u64 offset;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, UBLK_BPF_LATENCY_OPS);
	__type(key, __u32);
	__type(value, struct ublk_bpf_latency);
} ublk_latency SEC(".maps");

static __always_inline __u32 log2_of(__u64 n)
{
	__u32 log = 0, step;

#pragma unroll
	for (step = 32; step; step >>= 1) {
		if (n >> step) {
			n >>= step;
			log += step;
		}
	}
	return log;
}

UBLK_BPF(latency)
{
	return ublk_bpf_queue_all_with(ctx, 0, offset + ublk_bpf_start_bytes(ctx),
				       bpf_ktime_get_ns());
}

UBLK_BPF_COMPLETE(latency)
{
	__u64 took_ns = bpf_ktime_get_ns() - ctx->user_data;
	__u32 op = ctx->op, bucket;
	struct ublk_bpf_latency *of = bpf_map_lookup_elem(&ublk_latency, &op);

	if (of) {
		bucket = log2_of(took_ns);
		if (bucket >= UBLK_BPF_LATENCY_BUCKETS)
			bucket = UBLK_BPF_LATENCY_BUCKETS - 1;
		/* an interrupt may come between that completes another one */
		__sync_fetch_and_add(&of->buckets[bucket], 1);
		__sync_fetch_and_add(&of->total_ns, took_ns);
		if (ctx->result)
			__sync_fetch_and_add(&of->errors, 1);
	}
	return ctx->result;
}

char _license[] SEC("license") = "GPL";
