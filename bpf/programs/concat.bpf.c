// SPDX-License-Identifier: GPL-2.0
/*
 * concat: two files one after the other. The device's first `split_sectors` are
 * file 0 from its beginning, the others are file 1 from its beginning. A
 * request that straddles the border becomes two SQEs, which run in parallel; a
 * flush goes to both files, discards and zeroes are mapped as reads and writes
 * are. Other operations are passed to the server.
 *
 * Without `split_sectors` every request fails: a server that knows but one of
 * the files must not serve them instead.
 */
#include <ublk/sqe.bpf.h>

/* the first sector (of 512 bytes) of the device that is in file 1 */
const volatile __u64 split_sectors;

/* what the request does, to @nr sectors of a file, @done of its own before */
static __always_inline void queue_part(struct ublk_bpf_ctx *ctx, __s32 fd,
				       __u64 sector, __u32 done, __u32 nr)
{
	__u64 off = sector << UBLK_BPF_SECTOR_SHIFT;
	__u32 len = nr << UBLK_BPF_SECTOR_SHIFT;

	if (ctx->op <= UBLK_IO_OP_WRITE)
		ublk_bpf_queue_rw(ctx, fd, off,
				  (__u64)done << UBLK_BPF_SECTOR_SHIFT, len);
	else
		ublk_bpf_queue_zero(ctx, fd, off, len);
}

UBLK_BPF(concat)
{
	__u64 start = ctx->start_sector;
	__u32 nr = ctx->nr_sectors;

	if (!split_sectors)
		return UBLK_BPF_IO_ABORTED;
	if (ctx->op == UBLK_IO_OP_FLUSH) {
		ublk_bpf_queue_fsync(ctx, 0);
		ublk_bpf_queue_fsync(ctx, 1);
		return UBLK_BPF_IO_REDIRECT;
	}
	if (ctx->op > UBLK_IO_OP_WRITE && ctx->op != UBLK_IO_OP_DISCARD &&
	    ctx->op != UBLK_IO_OP_WRITE_ZEROES)
		return UBLK_BPF_IO_PASS;

	if (start + nr <= split_sectors) {
		queue_part(ctx, 0, start, 0, nr);
	} else if (start >= split_sectors) {
		queue_part(ctx, 1, start - split_sectors, 0, nr);
	} else {
		__u32 first = split_sectors - start;

		queue_part(ctx, 0, start, 0, first);
		queue_part(ctx, 1, 0, first, nr - first);
	}
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
