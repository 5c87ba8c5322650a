// SPDX-License-Identifier: GPL-2.0
#include <ublk/sqe.bpf.h>

UBLK_BPF(tiny)
{
	__u64 off = ublk_bpf_start_bytes(ctx);
	__u32 len = ublk_bpf_len_bytes(ctx);

	if (ctx->op == UBLK_IO_OP_READ || ctx->op == UBLK_IO_OP_WRITE)
		ublk_bpf_queue_rw(ctx, 0, off, 0, len);
	else if (ctx->op == UBLK_IO_OP_FLUSH)
		ublk_bpf_queue_fsync(ctx, 0);
	else
		return UBLK_BPF_IO_PASS;
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
