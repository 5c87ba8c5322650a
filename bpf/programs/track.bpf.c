// SPDX-License-Identifier: GPL-2.0
/*
 * track: loop, for a device that was added with --track: it marks which blocks
 * are written before they are. The server loads and attaches it, and has its
 * maps in common (ublk_bpf_maps.h).
 *
 * A block that is marked is only looked at, so that who writes to it again and
 * again writes to no shared memory. What is more than MAX_WORDS words of marks
 * is passed to the server, which marks it: discards, as the largest write of a
 * device is less with the usual sizes of blocks.
 */
#include <ublk/sqe.bpf.h>
#include <ublk_bpf_maps.h>

/* where in the file the device begins, bytes; a multiple of its block size */
const volatile __u64 offset;

/* log2 of the length of a tracked block, sectors of 512 bytes */
const volatile __u32 track_shift = 7;

/* of one generation, 64 blocks each */
#define MAX_WORDS	8U

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ublk_track_bits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ublk_bpf_track);
} ublk_track SEC(".maps");

/* 0: there is no such word, which does not happen */
static __always_inline _Bool mark_word(__u64 index, __u64 bits)
{
	__u32 key = index;
	__u64 *word = bpf_map_lookup_elem(&ublk_track_bits, &key);

	if (!word)
		return 0;
	if ((*(const volatile __u64 *)word & bits) != bits) {
		/* used: or else clang makes an instruction that orders nothing */
		__u64 before = __sync_fetch_and_or(word, bits);

		asm volatile("" : : "r"(before));
	}
	return 1;
}

/* 0: it is for the server to mark */
static __always_inline _Bool mark(const struct ublk_bpf_ctx *ctx)
{
	__u64 block = ctx->start_sector >> track_shift;
	__u64 end = ((ctx->start_sector + ctx->nr_sectors - 1) >> track_shift) + 1;
	const volatile struct ublk_bpf_track *shared;
	__u64 active, bits, next;
	__u32 key = 0, i;

	shared = bpf_map_lookup_elem(&ublk_track, &key);
	if (!shared)
		return 0;
	active = shared->active;
	for (i = 0; i < MAX_WORDS; i++) {
		next = (block | 63) + 1;
		bits = ~0ULL << (block & 63);
		if (end < next)
			bits &= ~0ULL >> (next - end);
		if (active & 1 && !mark_word((block >> 6) * 2, bits))
			return 0;
		if (active & 2 && !mark_word((block >> 6) * 2 + 1, bits))
			return 0;
		if (end <= next)
			return 1;
		block = next;
	}
	return 0;
}

UBLK_BPF(track)
{
	if ((ctx->op == UBLK_IO_OP_WRITE || ctx->op == UBLK_IO_OP_DISCARD ||
	     ctx->op == UBLK_IO_OP_WRITE_ZEROES) && !mark(ctx))
		return UBLK_BPF_IO_PASS;
	return ublk_bpf_queue_all(ctx, 0, offset + ublk_bpf_start_bytes(ctx));
}

char _license[] SEC("license") = "GPL";
