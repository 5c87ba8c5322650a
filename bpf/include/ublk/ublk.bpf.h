/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a ublk BPF program includes. A program looks at one block request and
 * returns one of enum ublk_bpf_verdict; with UBLK_BPF_IO_REDIRECT the kernel
 * executes the SQEs that it queued. A completion program, if there is one, is
 * told how they ended. The contract is in ublk_bpf.h, how to write a program in
 * docs/programs.md; ublk/sqe.bpf.h has helpers for the usual SQEs.
 *
 *	#include <ublk/ublk.bpf.h>
 *
 *	UBLK_BPF(zero)
 *	{
 *		return ctx->op == UBLK_IO_OP_READ ? UBLK_BPF_IO_DROP :
 *						    UBLK_BPF_IO_PASS;
 *	}
 *
 *	char _license[] SEC("license") = "GPL";
 */
#ifndef UBLK_UBLK_BPF_H
#define UBLK_UBLK_BPF_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/ublk_cmd.h>
#include <ublk_bpf.h>
#include <bpf/bpf_helpers.h>

_Static_assert(sizeof(struct io_uring_sqe) == 64, "the SQE has 64 bytes");

/**
 * bpf_ublk_queue_sqe - add one SQE to the plan for the request
 * @ctx: the context of the program
 * @sqe: a struct io_uring_sqe, see ublk_bpf.h for what its members mean here.
 *	It is copied: the memory may be used again at once
 * @sqe__sz: sizeof(struct io_uring_sqe)
 * @target: 0
 *
 * Nothing is issued before the program returns UBLK_BPF_IO_REDIRECT.
 *
 * Return: 0, or the negative errno of the enum ublk_bpf_reason for which the
 * SQE was refused. A plan of which an SQE was refused fails the request with
 * an I/O error, so a program need not look at it unless it has another verdict
 * to give.
 */
extern int bpf_ublk_queue_sqe(struct ublk_bpf_ctx *ctx, const void *sqe,
			      __u32 sqe__sz, __u32 target) __ksym;

/* The kernel's struct_ops, of which a program is one member, where it is one */
struct ublk_bpf_sqe_ops {
	int (*queue_io)(struct ublk_bpf_ctx *ctx);
	int (*complete_io)(struct ublk_bpf_ctx *ctx);
};

/*
 * UBLK_BPF(name) { ... } defines the program `name` over the read only
 * argument `struct ublk_bpf_ctx *ctx`. The body returns the verdict.
 *
 * One body makes two programs, of which the loader takes the one that the
 * kernel can run: `name` for BPF_PROG_TYPE_UBLK and `name_so` with the
 * struct_ops map `name_ops`. Neither is loaded unless asked for ("?").
 */
#define UBLK_BPF(name)	__UBLK_BPF(name, "?ublk", queue_io)

/*
 * UBLK_BPF_COMPLETE(name) { ... }, beside UBLK_BPF(name), is the completion half
 * of that program: it runs when all SQEs of a plan are done, with ctx->result,
 * and returns 0, a negative errno, UBLK_BPF_IO_PASS or UBLK_BPF_IO_REDIRECT.
 * Both halves are attached together and have the object's maps and variables in
 * common. It makes `name_complete`, `name_complete_so` and `name_complete_ops`.
 */
#define UBLK_BPF_COMPLETE(name)						\
	__UBLK_BPF(name##_complete, "?ublk/complete", complete_io)

#define __UBLK_BPF(name, section, member)				\
static __always_inline int __ublk_##name(struct ublk_bpf_ctx *ctx);	\
SEC(section)								\
int name(struct ublk_bpf_ctx *ctx)					\
{									\
	return __ublk_##name(ctx);					\
}									\
SEC("?struct_ops/" #member)						\
int name##_so(__u64 *args)						\
{									\
	return __ublk_##name((struct ublk_bpf_ctx *)args[0]);		\
}									\
SEC("?.struct_ops.link")						\
struct ublk_bpf_sqe_ops name##_ops = {					\
	.member = (int (*)(struct ublk_bpf_ctx *))name##_so,		\
};									\
static __always_inline int						\
__ublk_##name(struct ublk_bpf_ctx *ctx __attribute__((unused)))

#endif
