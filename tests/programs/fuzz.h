/* SPDX-License-Identifier: GPL-2.0 */
/* What fuzz.bpf.c does with random bytes; shared with tests/tools/fuzz_attach.cpp, which makes them. */
#ifndef FUZZ_H
#define FUZZ_H

#include <linux/types.h>

#define FUZZ_ENTRIES	1024	/* a power of two */
#define FUZZ_MAX_SQES	10	/* more than a plan may have */

/*
 * What of the random bytes is replaced by what fits the request. A good plan has
 * all of them, a nearly good one all except one.
 */
enum fuzz_fit {
	FUZZ_FIT_OPCODE		= 1 << 0,
	FUZZ_FIT_WHERE		= 1 << 1,	/* ->off, ->addr, ->len: the request's, or a part */
	FUZZ_FIT_FD		= 1 << 2,	/* modulo the number of files */
	FUZZ_FIT_FLAGS		= 1 << 3,	/* those that are allowed stay */
	FUZZ_FIT_OP_FLAGS	= 1 << 4,	/* those that are allowed stay */
	FUZZ_FIT_REST		= 1 << 5,	/* all that must be 0 */
	FUZZ_FIT_SQE		= (1 << 6) - 1,
	FUZZ_PART		= 1 << 6,	/* the nth part of the request, not all of it */
	FUZZ_RAW		= 1 << 7,	/* the bytes in the map as they are, while they may change */
};

/**
 * struct fuzz_sqe - one SQE
 * @words:	struct io_uring_sqe
 * @fit:	enum fuzz_fit
 * @size:	the kfunc's sqe__sz, if @fit has FUZZ_RAW; below 128
 * @target:	the kfunc's target
 * @add_off:	added to ->off when all else is done
 * @add_addr:	the same of ->addr
 * @add_len:	the same of ->len
 */
struct fuzz_sqe {
	__u64	words[8];
	__u32	fit;
	__u32	size;
	__u32	target;
	__s32	add_off;
	__s32	add_addr;
	__s32	add_len;
};

/* What one request is answered with; only the lowest bits of @verdict where the verifier has a range for it */
struct fuzz_entry {
	__s32		verdict;
	__u32		nr_sqes;
	struct fuzz_sqe	sqes[FUZZ_MAX_SQES];
};

/**
 * struct fuzz_table - the random bytes, and how far the program is
 * @runs:	requests that it was run for; the next one gets entry @runs % FUZZ_ENTRIES
 * @sqes:	calls of bpf_ublk_queue_sqe()
 * @accepted:	those that returned 0
 * @pad:	0
 * @entries:	random
 * @beyond:	what a size that is too large may reach
 */
struct fuzz_table {
	__u64			runs;
	__u64			sqes;
	__u64			accepted;
	__u64			pad;
	struct fuzz_entry	entries[FUZZ_ENTRIES];
	__u64			beyond[16];
};

#endif
