// SPDX-License-Identifier: GPL-2.0
/*
 * bad_read_past: the verifier must refuse it, as it reads past the context, and
 * past what the kernel keeps behind it on the face of struct_ops.
 */
#include <ublk/ublk.bpf.h>

UBLK_BPF(bad_read_past)
{
	const volatile __u64 *past = (const volatile __u64 *)(ctx + 4);

	return *past ? UBLK_BPF_IO_DROP : UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
