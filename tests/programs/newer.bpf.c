// SPDX-License-Identifier: GPL-2.0
/* newer: needs a kfunc that no kernel has yet. */
#include <ublk/ublk.bpf.h>

extern int bpf_ublk_from_the_future(struct ublk_bpf_ctx *ctx) __ksym;

UBLK_BPF(newer)
{
	return bpf_ublk_from_the_future(ctx);
}

char _license[] SEC("license") = "GPL";
