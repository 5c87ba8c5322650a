// SPDX-License-Identifier: GPL-2.0
/* bad_stack_ctx: the same with a context that the program made on its stack. */
#include "loop_body.bpf.h"

UBLK_BPF(bad_stack_ctx)
{
	struct ublk_bpf_ctx mine = { .op = ctx->op };

	ublk_bpf_queue_fsync(&mine, 0);
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
