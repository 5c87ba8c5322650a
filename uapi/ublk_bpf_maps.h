/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Maps that programs and tools have in common: their names and layouts. The
 * kernel's part of ublk knows nothing of them. A layout that changes gets
 * another name.
 *
 * All numbers are in native byte order.
 */
#ifndef _UAPI_LINUX_UBLK_BPF_MAPS_H
#define _UAPI_LINUX_UBLK_BPF_MAPS_H

#include <linux/types.h>

/*
 * How long requests have taken: a BPF_MAP_TYPE_PERCPU_ARRAY, its key a __u32
 * below UBLK_BPF_LATENCY_OPS, which is UBLK_IO_OP_*. A program that has it can
 * be asked with `ublk-bpf stat`.
 */
#define UBLK_BPF_LATENCY_MAP		"ublk_latency"
#define UBLK_BPF_LATENCY_OPS		6
#define UBLK_BPF_LATENCY_BUCKETS	40

/**
 * struct ublk_bpf_latency - of one operation, on one processor
 * @total_ns: of all requests together
 * @errors: how many of them have failed
 * @buckets: how many took 2^N to 2^(N+1) - 1 ns; the first also those that took
 *	0 ns, the last all that took longer
 */
struct ublk_bpf_latency {
	__u64	total_ns;
	__u64	errors;
	__u64	buckets[UBLK_BPF_LATENCY_BUCKETS];
};

/*
 * Which legs of a mirror are not to be used: a BPF_MAP_TYPE_ARRAY of one entry.
 * The server of the target `mirror` makes it, and sets a bit before a write
 * completes that this leg lacks; the program reads it.
 */
#define UBLK_BPF_MIRROR_MAP		"ublk_mirror"

/**
 * struct ublk_bpf_mirror - the state of a mirror
 * @failed: bit N: file N. Bits are only ever set
 * @pad: 0
 */
struct ublk_bpf_mirror {
	__u32	failed;
	__u32	pad;
};

/*
 * Which blocks of a clone are in which of its layers: a BPF_MAP_TYPE_ARRAY of
 * __u64 with BPF_F_MMAPABLE. First the top layer, one word for 64 blocks: bit
 * N % 64 of word N / 64 is block N. Then the marks of the top layer: bit S % 64
 * of word S / 64 says that the file's bitmap lacks bits of its sector S, which
 * is of UBLK_BPF_CLONE_SECTOR_BLOCKS blocks. Then the layers below, from the
 * top down, with as many words each as the top layer.
 *
 * Bits are only ever set: the block's first, then its mark, each by a full
 * barrier.
 */
#define UBLK_BPF_CLONE_BITS		"ublk_clone_bits"
#define UBLK_BPF_CLONE_SECTOR_BLOCKS	4032U
#define UBLK_BPF_CLONE_LAYERS		16	/* at most */

/* And what it has in common with its server besides: an array of one entry. */
#define UBLK_BPF_CLONE_MAP		"ublk_clone"

/*
 * One program serves any number of clones: its maps have an entry for each,
 * N of /dev/ublkbN. The first two are a BPF_MAP_TYPE_ARRAY_OF_MAPS, of the two
 * above; the third is a BPF_MAP_TYPE_ARRAY of struct ublk_bpf_clone_chain. A
 * clone that lacks an entry of them is passed. Entries are written before the
 * program is attached, and stay until it is so no more.
 */
#define UBLK_BPF_DISK_BITS		"ublk_disk_bits"
#define UBLK_BPF_DISK_CLONE		"ublk_disk_clone"
#define UBLK_BPF_DISK_CHAIN		"ublk_disk_chain"
#define UBLK_BPF_DISKS			16384U

/* The server is about to seal the top layer: it alone changes it */
#define UBLK_BPF_CLONE_F_FROZEN		0x1ULL
/* The program that is attached looks at that */
#define UBLK_BPF_CLONE_F_CAN_FREEZE	0x2ULL

/**
 * struct ublk_bpf_clone - what server and program of a clone tell each other
 * @begun: how often the program has begun to set bits; it counts first
 * @done: how often it has set them, and their marks; it counts last
 * @saved: of what was begun, how much is in the file for good; the server's
 * @unsaved: not 0: the server has set bits that the file lacks
 * @busy: bit N: the server is at work on a block that has this number modulo
 *	64 and is not in the top layer; the program leaves it alone
 * @flags: UBLK_BPF_CLONE_F_*; the server's
 * @layer: the top layer's UUID
 * @data_offset: by layer, the top layer first: where in its file block 0 is,
 *	bytes
 *
 * A FLUSH needs no more than an fsync if @begun is @saved and @unsaved is 0.
 */
struct ublk_bpf_clone {
	__u64	begun;
	__u64	done;
	__u64	saved;
	__u64	unsaved;
	__u64	busy;
	__u64	flags;
	__u8	layer[16];
	__u64	data_offset[UBLK_BPF_CLONE_LAYERS];
};

/**
 * struct ublk_bpf_clone_chain - what the files of a clone are to its program
 * @nr_sectors: of the device, of 512 bytes: its last block may be cut short
 * @base_sectors: of the base; what is beyond its end reads as zeroes. 0: there
 *	is none
 * @nr_words: of one layer in the map of bits
 * @nr_marks: words of the top layer's marks there
 * @top_offset: where block 0 is in the top layer's file, bytes
 * @block_shift: log2 of the length of a block, sectors of 512 bytes
 * @nr_layers: files 0 to this - 1 are the layers, the top layer first; then
 *	comes the base, if there is one
 */
struct ublk_bpf_clone_chain {
	__u64	nr_sectors;
	__u64	base_sectors;
	__u64	nr_words;
	__u64	nr_marks;
	__u64	top_offset;
	__u32	block_shift;
	__u32	nr_layers;
};

/*
 * Which blocks of a device were written: a BPF_MAP_TYPE_ARRAY of __u64 with
 * BPF_F_MMAPABLE, of two generations. Bit N % 64 of word N / 64 * 2 + G is block
 * N in generation G.
 *
 * Before a WRITE, DISCARD or WRITE_ZEROES is issued its blocks are marked in
 * each generation that @active has, which is read first. A bit that is set need
 * not be set again. The program does so for what it plans, the server for what
 * it is passed.
 */
#define UBLK_BPF_TRACK_BITS		"ublk_track_bits"

/* And what they have in common besides: an array of one entry. */
#define UBLK_BPF_TRACK_MAP		"ublk_track"

/**
 * struct ublk_bpf_track - what was written, and how it is to be noted
 * @active: bit G: what is written is marked in generation G
 * @current: the generation of the period that began at the last mark
 * @all: not 0: in this period all counts as changed
 * @of: UUID of the file that has it when the device is gone
 * @pad: 0
 * @phase: of the server, which counts by it: in @in_flight[@phase % 2]
 * @in_flight: requests of the server that it has marked and are not done
 * @pad2: 0
 */
struct ublk_bpf_track {
	__u64	active;
	__u64	current;
	__u64	all;
	__u8	of[16];
	__u64	pad[3];
	__u64	phase;
	__u64	in_flight[2];
	__u64	pad2[5];
};

#ifdef __cplusplus
static_assert(sizeof(struct ublk_bpf_track) == 128, "layout");
static_assert(sizeof(struct ublk_bpf_clone) == 192, "layout");
static_assert(sizeof(struct ublk_bpf_clone_chain) == 48, "layout");
static_assert(sizeof(struct ublk_bpf_mirror) == 8, "layout");
static_assert(sizeof(struct ublk_bpf_latency) == 336, "layout");
#else
_Static_assert(sizeof(struct ublk_bpf_track) == 128, "layout");
_Static_assert(sizeof(struct ublk_bpf_clone) == 192, "layout");
_Static_assert(sizeof(struct ublk_bpf_clone_chain) == 48, "layout");
_Static_assert(sizeof(struct ublk_bpf_mirror) == 8, "layout");
_Static_assert(sizeof(struct ublk_bpf_latency) == 336, "layout");
#endif

#endif
