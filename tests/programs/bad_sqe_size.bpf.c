// SPDX-License-Identifier: GPL-2.0
/* bad_sqe_size: the verifier must refuse it: the SQE is shorter than it says. */
#include <ublk/ublk.bpf.h>

UBLK_BPF(bad_sqe_size)
{
	__u64 half[4] = {};

	bpf_ublk_queue_sqe(ctx, half, 64, 0);
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
