// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz: takes SQEs and verdicts from random bytes in a map (fuzz.h), one entry for
 * each request. With `any_verdict` 0, only verdicts that there are.
 */
#include <ublk/sqe.bpf.h>
#include "fuzz.h"

const volatile _Bool any_verdict;

struct fuzz_table table;

/* ->off, ->addr and ->len for the whole request or its part @i of @nr */
static __always_inline void fit_where(const struct ublk_bpf_ctx *ctx,
				      struct io_uring_sqe *sqe, __u32 i, __u32 nr)
{
	__u64 first = 0, end = ctx->nr_sectors;

	if (ctx->op == UBLK_IO_OP_FLUSH) {
		sqe->off = 0;
		sqe->addr = 0;
		sqe->len = 0;
		return;
	}
	if (nr) {
		first = end * i / nr;
		end = end * (i + 1) / nr;
	}
	sqe->off = (ctx->start_sector + first) << UBLK_BPF_SECTOR_SHIFT;
	if (ctx->op <= UBLK_IO_OP_WRITE) {
		sqe->addr = first << UBLK_BPF_SECTOR_SHIFT;
		sqe->len = (end - first) << UBLK_BPF_SECTOR_SHIFT;
	} else {
		sqe->addr = (end - first) << UBLK_BPF_SECTOR_SHIFT;
		sqe->len = FALLOC_FL_KEEP_SIZE |
			   (sqe->len & 1 ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	}
}

static __always_inline void fit_op_flags(const struct ublk_bpf_ctx *ctx,
					 struct io_uring_sqe *sqe)
{
	if (ctx->op <= UBLK_IO_OP_WRITE)
		sqe->rw_flags &= 2 | 4;	/* RWF_DSYNC, RWF_SYNC */
	else if (ctx->op == UBLK_IO_OP_FLUSH)
		sqe->rw_flags &= IORING_FSYNC_DATASYNC;
	else
		sqe->rw_flags = 0;
}

static __always_inline void fit_opcode(const struct ublk_bpf_ctx *ctx,
				       struct io_uring_sqe *sqe)
{
	if (ctx->op <= UBLK_IO_OP_WRITE)
		sqe->opcode = IORING_OP_READ + ctx->op;
	else if (ctx->op == UBLK_IO_OP_FLUSH)
		sqe->opcode = IORING_OP_FSYNC;
	else
		sqe->opcode = IORING_OP_FALLOCATE;
}

static __always_inline int queue_fitted(struct ublk_bpf_ctx *ctx,
					const struct fuzz_sqe *from, __u32 i, __u32 nr)
{
	union {
		struct io_uring_sqe sqe;
		__u64 words[8];
	} u;
	__u32 fit = from->fit;
	int w;

	for (w = 0; w < 8; w++)
		u.words[w] = from->words[w];
	if (fit & FUZZ_FIT_OPCODE)
		fit_opcode(ctx, &u.sqe);
	if (fit & FUZZ_FIT_WHERE)
		fit_where(ctx, &u.sqe, i, fit & FUZZ_PART ? nr : 0);
	if (fit & FUZZ_FIT_FD && ctx->nr_files)
		u.sqe.fd = (__u32)u.sqe.fd % ctx->nr_files;
	if (fit & FUZZ_FIT_FLAGS)
		u.sqe.flags &= IOSQE_FIXED_FILE | IOSQE_IO_LINK;
	if (fit & FUZZ_FIT_OP_FLAGS)
		fit_op_flags(ctx, &u.sqe);
	if (fit & FUZZ_FIT_REST) {
		u.sqe.ioprio = 0;
		u.words[5] = 0;
		u.words[6] = 0;
		u.words[7] = 0;
	}
	u.sqe.off += from->add_off;
	u.sqe.addr += from->add_addr;
	u.sqe.len += from->add_len;
	return bpf_ublk_queue_sqe(ctx, &u.sqe, sizeof(u.sqe), from->target);
}

UBLK_BPF(fuzz)
{
	__u64 run = __sync_fetch_and_add(&table.runs, 1);
	const struct fuzz_entry *entry = &table.entries[run & (FUZZ_ENTRIES - 1)];
	__u32 nr = entry->nr_sqes, i;
	__u64 accepted = 0;
	int ret;

	if (nr > FUZZ_MAX_SQES)
		nr = FUZZ_MAX_SQES;
	for (i = 0; i < FUZZ_MAX_SQES && i < nr; i++) {
		const struct fuzz_sqe *sqe = &entry->sqes[i];

		if (sqe->fit & FUZZ_RAW)
			ret = bpf_ublk_queue_sqe(ctx, sqe->words, sqe->size & 127,
						 sqe->target);
		else
			ret = queue_fitted(ctx, sqe, i, nr);
		accepted += !ret;
	}
	__sync_fetch_and_add(&table.sqes, nr);
	__sync_fetch_and_add(&table.accepted, accepted);
	return any_verdict ? entry->verdict : entry->verdict & 3;
}

char _license[] SEC("license") = "GPL";
