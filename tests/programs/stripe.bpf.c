// SPDX-License-Identifier: GPL-2.0
/*
 * stripe: chunks of `chunk_sectors` alternate between files 0 and 1. Reads and
 * writes of more than UBLK_BPF_MAX_SQES chunks fail, so the device's largest I/O
 * must fit. What is discarded or zeroed is one range of each file, however large.
 */
#include "loop_body.bpf.h"

const volatile __u32 chunk_sectors = 128;

/* how many of the device's first @sectors are in file @fd */
static __always_inline __u64 sectors_in_file(__u64 sectors, __u32 fd)
{
	__u64 row = sectors / (2 * chunk_sectors);
	__u32 rest = sectors % (2 * chunk_sectors);
	__u32 skip = fd * chunk_sectors;

	rest = rest < skip ? 0 : rest - skip;
	return row * chunk_sectors + (rest < chunk_sectors ? rest : chunk_sectors);
}

static __always_inline int queue_chunk(struct ublk_bpf_ctx *ctx, __u64 sector,
				       __u32 done, __u32 nr)
{
	__u32 fd = sector / chunk_sectors & 1;

	return ublk_bpf_queue_rw(ctx, fd,
				 sectors_in_file(sector, fd) << UBLK_BPF_SECTOR_SHIFT,
				 (__u64)done << UBLK_BPF_SECTOR_SHIFT,
				 nr << UBLK_BPF_SECTOR_SHIFT);
}

static __always_inline int zero_part(struct ublk_bpf_ctx *ctx, __u32 fd)
{
	__u64 from = sectors_in_file(ctx->start_sector, fd);
	__u64 to = sectors_in_file(ctx->start_sector + ctx->nr_sectors, fd);

	if (from == to)
		return 0;
	return ublk_bpf_queue_zero(ctx, fd, from << UBLK_BPF_SECTOR_SHIFT,
				   (to - from) << UBLK_BPF_SECTOR_SHIFT);
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
	if (ctx->op > UBLK_IO_OP_WRITE) {
		if (zero_part(ctx, 0) || zero_part(ctx, 1))
			return UBLK_BPF_IO_ABORTED;
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
