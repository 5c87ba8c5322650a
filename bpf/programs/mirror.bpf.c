// SPDX-License-Identifier: GPL-2.0
/*
 * mirror: RAID 1, the program half of the target `mirror`. Files 0 and 1, the
 * legs, have the same bytes, from `offset` on. What changes data goes to both
 * in one plan. Reads of one region of the device go to one leg, those of the
 * next region to the other, and when one fails, once more to the other leg.
 * A flush is an fdatasync of both.
 *
 * What has failed otherwise is passed to the server. That tries again, and may
 * give a leg up, which it says in the map before the write completes: from then
 * on only the other leg is used. What fails on the only leg fails.
 */
#include <ublk/sqe.bpf.h>
#include <ublk_bpf_maps.h>

/* where in both files the device begins, bytes; a multiple of its block size */
const volatile __u64 offset;

/* log2 of the length of a region, sectors of 512 bytes: 1 MiB */
const volatile __u32 region_shift = 11;

#define BOTH	3U

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ublk_bpf_mirror);
} ublk_mirror SEC(".maps");

/* bit N: leg N is not to be used */
static __always_inline __u32 failed_legs(void)
{
	const volatile struct ublk_bpf_mirror *state;
	__u32 key = 0;

	state = bpf_map_lookup_elem(&ublk_mirror, &key);
	return state ? state->failed : BOTH;
}

static __always_inline __u64 place(const struct ublk_bpf_ctx *ctx)
{
	return offset + ublk_bpf_start_bytes(ctx);
}

/* user_data: the leg */
static __always_inline void queue_read(struct ublk_bpf_ctx *ctx, __u32 leg)
{
	ublk_bpf_queue_rw_with(ctx, leg, place(ctx), 0, ublk_bpf_len_bytes(ctx),
			       leg);
}

/* user_data: the legs that it is for */
static __always_inline void queue_change(struct ublk_bpf_ctx *ctx, __u32 leg,
					 __u32 legs)
{
	__u32 len = ublk_bpf_len_bytes(ctx);

	if (ctx->op == UBLK_IO_OP_WRITE)
		ublk_bpf_queue_rw_with(ctx, leg, place(ctx), 0, len, legs);
	else
		ublk_bpf_queue_zero_with(ctx, leg, place(ctx), len, legs);
}

UBLK_BPF(mirror)
{
	__u32 legs = BOTH & ~failed_legs(), leg;

	switch (ctx->op) {
	case UBLK_IO_OP_READ:
		leg = ctx->start_sector >> region_shift & 1;
		if (!(legs >> leg & 1))
			leg ^= 1;
		queue_read(ctx, leg);
		return UBLK_BPF_IO_REDIRECT;
	case UBLK_IO_OP_WRITE:
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		if (legs & 1)
			queue_change(ctx, 0, legs);
		if (legs & 2)
			queue_change(ctx, 1, legs);
		return UBLK_BPF_IO_REDIRECT;
	case UBLK_IO_OP_FLUSH:
		/* also of one that was written before it has failed */
		ublk_bpf_queue_fsync_with(ctx, 0, BOTH);
		ublk_bpf_queue_fsync_with(ctx, 1, BOTH);
		return UBLK_BPF_IO_REDIRECT;
	default:
		return UBLK_BPF_IO_PASS;
	}
}

UBLK_BPF_COMPLETE(mirror)
{
	__u32 failed, other;

	if (!ctx->result)
		return 0;
	failed = failed_legs();
	if (ctx->op == UBLK_IO_OP_READ) {
		other = (ctx->user_data ^ 1) & 1;
		if (ctx->round > 1 || failed >> other & 1)
			return ctx->result;
		queue_read(ctx, other);
		return UBLK_BPF_IO_REDIRECT;
	}
	/* what has failed was given up meanwhile, and is on the other leg */
	if (ctx->user_data == BOTH && ctx->failed != BOTH &&
	    !(ctx->failed & ~failed))
		return 0;
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
