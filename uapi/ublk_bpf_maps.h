/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Maps that programs and tools have in common: their names and layouts. The
 * kernel's part of ublk knows nothing of them. A layout that changes gets
 * another name.
 *
 * All numbers are in native byte order.
 */
#ifndef _UAPI_LINUX_UBLK_BPF_MAPS_H
#define _UAPI_LINUX_UBLK_BPF_MAPS_H

#include <linux/types.h>

/*
 * How long requests have taken: a BPF_MAP_TYPE_PERCPU_ARRAY, its key a __u32
 * below UBLK_BPF_LATENCY_OPS, which is UBLK_IO_OP_*. A program that has it can
 * be asked with `ublk-bpf stat`.
 */
#define UBLK_BPF_LATENCY_MAP		"ublk_latency"
#define UBLK_BPF_LATENCY_OPS		6
#define UBLK_BPF_LATENCY_BUCKETS	40

/**
 * struct ublk_bpf_latency - of one operation, on one processor
 * @total_ns: of all requests together
 * @errors: how many of them have failed
 * @buckets: how many took 2^N to 2^(N+1) - 1 ns; the first also those that took
 *	0 ns, the last all that took longer
 */
struct ublk_bpf_latency {
	__u64	total_ns;
	__u64	errors;
	__u64	buckets[UBLK_BPF_LATENCY_BUCKETS];
};

/*
 * Which legs of a mirror are not to be used: a BPF_MAP_TYPE_ARRAY of one entry.
 * The server of the target `mirror` makes it, and sets a bit before a write
 * completes that this leg lacks; the program reads it.
 */
#define UBLK_BPF_MIRROR_MAP		"ublk_mirror"

/**
 * struct ublk_bpf_mirror - the state of a mirror
 * @failed: bit N: file N. Bits are only ever set
 * @pad: 0
 */
struct ublk_bpf_mirror {
	__u32	failed;
	__u32	pad;
};

#ifdef __cplusplus
static_assert(sizeof(struct ublk_bpf_mirror) == 8, "layout");
static_assert(sizeof(struct ublk_bpf_latency) == 336, "layout");
#else
_Static_assert(sizeof(struct ublk_bpf_mirror) == 8, "layout");
_Static_assert(sizeof(struct ublk_bpf_latency) == 336, "layout");
#endif

#endif
