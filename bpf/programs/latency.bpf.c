// SPDX-License-Identifier: GPL-2.0
/*
 * latency: what `loop` does, and it notes how long each request took: from
 * when the program saw it to when its last SQE was done, in a histogram per
 * operation and processor. `ublk-bpf stat` shows it. <ublk/latency.bpf.h> does
 * the same over any other mapping.
 */
#include <ublk/latency.bpf.h>

/* where in the file the device begins, bytes; a multiple of its block size */
const volatile __u64 offset;

UBLK_BPF(latency)
{
	return ublk_bpf_queue_all(ctx, 0, offset + ublk_bpf_start_bytes(ctx));
}

UBLK_BPF_LATENCY(latency)

char _license[] SEC("license") = "GPL";
