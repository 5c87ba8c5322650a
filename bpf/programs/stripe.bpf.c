// SPDX-License-Identifier: GPL-2.0
/*
 * stripe: RAID 0. Chunks of `chunk_sectors` lie in turn on the attached files,
 * the legs: chunk 0 on file 0, chunk 1 on file 1, and so on, then the next row.
 * The device is as large as the smallest leg, rounded down to chunks, times
 * their number; it does not check that. There are at most UBLK_BPF_MAX_SQES
 * legs, so that one plan reaches all of them.
 *
 * A request within a chunk is one SQE. One that crosses chunks is one for each,
 * in parallel; of more than UBLK_BPF_MAX_SQES chunks it fails, and `refused`
 * counts it as `full`: add the device with --chunk, of up to that many chunks,
 * and there are no such requests. A flush goes to all legs. What is discarded
 * or zeroed is one range of each leg, however many chunks that are. Nothing is
 * passed to the server, which knows only some of the data; where there is no
 * chunk that is a power of two, or there are too many legs, all fails.
 */
#include <ublk/sqe.bpf.h>

/* length of a chunk, sectors of 512 bytes; a power of two */
const volatile __u32 chunk_sectors = 128;

/*
 * Where the sector's row begins on each leg, and the leg that it is on. Most
 * arrays have two legs, or four: these take no division.
 */
static __always_inline void locate(__u64 sector, __u32 chunk, __u32 legs,
				   __u64 *row, __u32 *leg)
{
	const __u64 within = chunk - 1;

	if (legs == 2) {
		*row = sector >> 1 & ~within;
		*leg = (sector & chunk) != 0;
	} else if (legs == 4) {
		*row = sector >> 2 & ~within;
		*leg = (sector & chunk) != 0;
		if (sector & (__u64)chunk << 1)
			*leg += 2;
	} else {
		*row = sector / chunk;
		*leg = *row % legs;
		*row = *row / legs * chunk;
	}
}

/* @nr sectors from @sector on, all in one chunk, @done of the request before */
static __always_inline void queue_part(struct ublk_bpf_ctx *ctx, __u32 chunk,
				       __u64 sector, __u32 done, __u32 nr)
{
	__u64 row;
	__u32 leg;

	locate(sector, chunk, ctx->nr_files, &row, &leg);
	sector = row + (sector & (chunk - 1));
	ublk_bpf_queue_rw(ctx, leg, sector << UBLK_BPF_SECTOR_SHIFT,
			  (__u64)done << UBLK_BPF_SECTOR_SHIFT,
			  nr << UBLK_BPF_SECTOR_SHIFT);
}

static __always_inline void queue_parts(struct ublk_bpf_ctx *ctx, __u32 chunk)
{
	__u64 sector = ctx->start_sector;
	__u32 left = ctx->nr_sectors, done = 0;
	int i;

	/* the one beyond the plan is refused, and with it the request */
	for (i = 0; i <= UBLK_BPF_MAX_SQES && left; i++) {
		__u32 part = chunk - (sector & (chunk - 1));

		if (part > left)
			part = left;
		queue_part(ctx, chunk, sector, done, part);
		sector += part;
		done += part;
		left -= part;
	}
}

/* how many of the device's first @sector sectors are on the leg @of */
static __always_inline __u64 sectors_on(__u32 chunk, __u64 sector, __u32 legs,
					__u32 of)
{
	__u64 row;
	__u32 leg;

	locate(sector, chunk, legs, &row, &leg);
	if (of < leg)
		return row + chunk;
	return of > leg ? row : row + (sector & (chunk - 1));
}

static __always_inline void queue_ranges(struct ublk_bpf_ctx *ctx, __u32 chunk)
{
	__u64 begin = ctx->start_sector, end = begin + ctx->nr_sectors;
	__u32 legs = ctx->nr_files, leg;

	for (leg = 0; leg < UBLK_BPF_MAX_SQES && leg < legs; leg++) {
		__u64 from = sectors_on(chunk, begin, legs, leg);
		__u64 to = sectors_on(chunk, end, legs, leg);

		if (from < to)
			ublk_bpf_queue_zero(ctx, leg,
					    from << UBLK_BPF_SECTOR_SHIFT,
					    (to - from) << UBLK_BPF_SECTOR_SHIFT);
	}
}

UBLK_BPF(stripe)
{
	const __u32 chunk = chunk_sectors;
	__u32 i;

	if (!chunk || chunk & (chunk - 1) ||
	    ctx->nr_files - 1 >= UBLK_BPF_MAX_SQES)
		return UBLK_BPF_IO_ABORTED;
	switch (ctx->op) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
		if ((ctx->start_sector & (chunk - 1)) + ctx->nr_sectors <= chunk)
			queue_part(ctx, chunk, ctx->start_sector, 0,
				   ctx->nr_sectors);
		else
			queue_parts(ctx, chunk);
		return UBLK_BPF_IO_REDIRECT;
	case UBLK_IO_OP_FLUSH:
		for (i = 0; i < UBLK_BPF_MAX_SQES && i < ctx->nr_files; i++)
			ublk_bpf_queue_fsync(ctx, i);
		return UBLK_BPF_IO_REDIRECT;
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		queue_ranges(ctx, chunk);
		return UBLK_BPF_IO_REDIRECT;
	default:
		return UBLK_BPF_IO_ABORTED;
	}
}

char _license[] SEC("license") = "GPL";
