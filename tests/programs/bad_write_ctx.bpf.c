// SPDX-License-Identifier: GPL-2.0
/* bad_write_ctx: the verifier must refuse it, as the context is read only. */
#include <ublk/ublk.bpf.h>

UBLK_BPF(bad_write_ctx)
{
	ctx->start_sector = 0;
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
