/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long requests take, over any mapping: a histogram per operation and
 * processor, which `ublk-bpf stat` shows. Include it before <ublk/sqe.bpf.h>,
 * and after UBLK_BPF(name) write
 *
 *	UBLK_BPF_LATENCY(name)
 *
 * A program that has a completion half already returns from it by way of
 * ublk_bpf_note_latency(ctx, verdict) instead.
 *
 * What is noted is the time from when the program planned the request, the last
 * time if it did so more than once, to when the last SQE was done. Requests
 * that a program passes to the server are not noted (those that it fails are,
 * even if the server makes the error good), nor is the time that a request has
 * waited before: for a tag, in an I/O scheduler. The plan's first SQE carries
 * the time as its user_data, so it must not come from a helper whose name ends
 * in _with, or else the request is not noted.
 */
#ifndef UBLK_LATENCY_BPF_H
#define UBLK_LATENCY_BPF_H

#ifdef UBLK_SQE_BPF_H
#error "include <ublk/latency.bpf.h> before <ublk/sqe.bpf.h>"
#endif

#define UBLK_BPF_USER_DATA()	bpf_ktime_get_ns()

#include <ublk/sqe.bpf.h>
#include <ublk_bpf_maps.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, UBLK_BPF_LATENCY_OPS);
	__type(key, __u32);
	__type(value, struct ublk_bpf_latency);
} ublk_latency SEC(".maps");

static __always_inline __u32 ublk_bpf_log2(__u64 n)
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

/* Notes it, unless another plan is to be executed; returns the verdict */
static __always_inline int ublk_bpf_note_latency(struct ublk_bpf_ctx *ctx,
						 int verdict)
{
	__u64 took_ns = bpf_ktime_get_ns() - ctx->user_data;
	__u32 op = ctx->op, bucket;
	struct ublk_bpf_latency *of;

	if (verdict > 0 || !ctx->user_data)
		return verdict;
	of = bpf_map_lookup_elem(&ublk_latency, &op);
	if (of) {
		bucket = ublk_bpf_log2(took_ns);
		if (bucket >= UBLK_BPF_LATENCY_BUCKETS)
			bucket = UBLK_BPF_LATENCY_BUCKETS - 1;
		/* an interrupt may come between that completes another one */
		__sync_fetch_and_add(&of->buckets[bucket], 1);
		__sync_fetch_and_add(&of->total_ns, took_ns);
		if (verdict)
			__sync_fetch_and_add(&of->errors, 1);
	}
	return verdict;
}

#define UBLK_BPF_LATENCY(name)						\
UBLK_BPF_COMPLETE(name)							\
{									\
	return ublk_bpf_note_latency(ctx, ctx->result);			\
}

#endif
