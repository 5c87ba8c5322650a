// SPDX-License-Identifier: GPL-2.0
/*
 * pass: plans every request and passes it to the server all the same. The plan
 * must be forgotten: on a file other than the server's nothing may change.
 */
#include "loop_body.bpf.h"

UBLK_BPF(pass)
{
	queue_loop(ctx, 0);
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
