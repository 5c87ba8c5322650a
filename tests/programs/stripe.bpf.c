// SPDX-License-Identifier: GPL-2.0
/*
 * stripe: chunks of `chunk_sectors` alternate between files 0 and 1. Requests of
 * more than UBLK_BPF_MAX_SQES chunks fail, so the device's largest I/O must fit.
 */
#include "loop_body.bpf.h"

const volatile __u32 chunk_sectors = 128;

static __always_inline int queue_chunk(struct ublk_bpf_ctx *ctx, __u64 sector,
				       __u32 done, __u32 nr)
{
	__u64 chunk = sector / chunk_sectors;
	__u64 in_file = (chunk >> 1) * chunk_sectors + sector % chunk_sectors;
	__u64 off = in_file << UBLK_BPF_SECTOR_SHIFT;
	__u32 len = nr << UBLK_BPF_SECTOR_SHIFT;

	if (ctx->op <= UBLK_IO_OP_WRITE)
		return ublk_bpf_queue_rw(ctx, chunk & 1, off,
					 (__u64)done << UBLK_BPF_SECTOR_SHIFT, len);
	return ublk_bpf_queue_zero(ctx, chunk & 1, off, len);
}

UBLK_BPF(stripe)
{
	__u64 sector = ctx->start_sector;
	__u32 nr = ctx->nr_sectors, done = 0;
	int i;

	if (!chunk_sectors)
		return UBLK_BPF_IO_ABORTED;
	if (ctx->op == UBLK_IO_OP_FLUSH) {
		ublk_bpf_queue_fsync(ctx, 0);
		ublk_bpf_queue_fsync(ctx, 1);
		return UBLK_BPF_IO_REDIRECT;
	}
	for (i = 0; i < UBLK_BPF_MAX_SQES && done < nr; i++) {
		__u32 part = chunk_sectors - sector % chunk_sectors;

		if (part > nr - done)
			part = nr - done;
		if (queue_chunk(ctx, sector, done, part))
			return UBLK_BPF_IO_ABORTED;
		sector += part;
		done += part;
	}
	return done < nr ? UBLK_BPF_IO_ABORTED : UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
