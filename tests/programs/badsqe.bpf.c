// SPDX-License-Identifier: GPL-2.0
/*
 * badsqe: loop, but for requests of operation `op` that begin at sector
 * `at_sector` (a flush has no sector) up to three fields of the SQE are changed
 * first, and it is queued `times` times. So one program covers every field of an
 * SQE and, with a table of values, every edge.
 *
 * The verdict is `verdict`. But with an `expect` that is not 0, the first of these
 * requests tells what the last call of the kfunc returned: UBLK_BPF_IO_DROP, so
 * that the I/O succeeds, when it was exactly -`expect`, else UBLK_BPF_IO_ABORTED.
 */
#include "loop_body.bpf.h"

enum field {
	FIELD_NONE,
	FIELD_OPCODE,
	FIELD_FLAGS,
	FIELD_IOPRIO,
	FIELD_FD,
	FIELD_OFF,
	FIELD_ADDR,
	FIELD_LEN,
	FIELD_OP_FLAGS,
	FIELD_USER_DATA,
	FIELD_BUF_INDEX,
	FIELD_PERSONALITY,
	FIELD_SPLICE_FD,
	FIELD_ADDR3,
	FIELD_PAD2,
	FIELD_SQE_SZ,		/* the argument, not of the SQE */
	FIELD_TARGET,		/* the argument, not of the SQE */
};

const volatile __u32 op;
const volatile __u64 at_sector;
const volatile __u8 field;
const volatile __u64 value;
const volatile __u8 field2;
const volatile __u64 value2;
const volatile __u8 field3;
const volatile __u64 value3;
const volatile __u8 times = 1;
const volatile __s32 verdict = UBLK_BPF_IO_REDIRECT;
const volatile __u32 expect;

/* requests that were spoilt */
__u32 spoilt;

struct call {
	union {
		struct io_uring_sqe sqe;
		__u64 words[16];	/* room for an argument that is too long */
	};
	/* 64 bits each, or a store to one makes the verifier forget the other */
	__u64 size;
	__u64 target;
};

static __always_inline void good_sqe(const struct ublk_bpf_ctx *ctx,
				     struct io_uring_sqe *sqe)
{
	sqe->off = ublk_bpf_start_bytes(ctx);
	switch (ctx->op) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
		sqe->opcode = ctx->op == UBLK_IO_OP_READ ? IORING_OP_READ :
							   IORING_OP_WRITE;
		sqe->len = ublk_bpf_len_bytes(ctx);
		break;
	case UBLK_IO_OP_FLUSH:
		sqe->opcode = IORING_OP_FSYNC;
		sqe->off = 0;
		break;
	default:
		sqe->opcode = IORING_OP_FALLOCATE;
		sqe->addr = ublk_bpf_len_bytes(ctx);
		sqe->len = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
	}
}

static __always_inline void change(struct call *c, __u8 which, __u64 to)
{
	struct io_uring_sqe *sqe = &c->sqe;

	switch (which) {
	case FIELD_OPCODE:
		sqe->opcode = to;
		break;
	case FIELD_FLAGS:
		sqe->flags = to;
		break;
	case FIELD_IOPRIO:
		sqe->ioprio = to;
		break;
	case FIELD_FD:
		sqe->fd = to;
		break;
	case FIELD_OFF:
		sqe->off = to;
		break;
	case FIELD_ADDR:
		sqe->addr = to;
		break;
	case FIELD_LEN:
		sqe->len = to;
		break;
	case FIELD_OP_FLAGS:
		sqe->rw_flags = to;
		break;
	case FIELD_USER_DATA:
		sqe->user_data = to;
		break;
	case FIELD_BUF_INDEX:
		sqe->buf_index = to;
		break;
	case FIELD_PERSONALITY:
		sqe->personality = to;
		break;
	case FIELD_SPLICE_FD:
		sqe->splice_fd_in = to;
		break;
	case FIELD_ADDR3:
		sqe->addr3 = to;
		break;
	case FIELD_PAD2:
		sqe->__pad2[0] = to;
		break;
	case FIELD_SQE_SZ:
		c->size = to;
		break;
	case FIELD_TARGET:
		c->target = to;
		break;
	}
}

UBLK_BPF(badsqe)
{
	struct call c = { .size = sizeof(struct io_uring_sqe) };
	int i, ret = 0;

	if (ctx->op != op ||
	    (op != UBLK_IO_OP_FLUSH && ctx->start_sector != at_sector))
		return loop_verdict(ctx);

	good_sqe(ctx, &c.sqe);
	change(&c, field, value);
	change(&c, field2, value2);
	change(&c, field3, value3);
	for (i = 0; i < times && i < 16; i++)
		ret = bpf_ublk_queue_sqe(ctx, &c.sqe, c.size, c.target);
	if (expect && !__sync_fetch_and_add(&spoilt, 1))
		return ret == -(int)expect ? UBLK_BPF_IO_DROP : UBLK_BPF_IO_ABORTED;
	return verdict;
}

char _license[] SEC("license") = "GPL";
