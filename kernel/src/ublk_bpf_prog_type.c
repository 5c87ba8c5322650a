// SPDX-License-Identifier: GPL-2.0
/*
 * BPF_PROG_TYPE_UBLK. Always built in, as the verifier needs the operations of
 * a program type; ublk_drv.c, which may be a module, calls in.
 */
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/init.h>
#include "ublk_bpf_int.h"

__bpf_kfunc_start_defs();

/**
 * bpf_ublk_queue_sqe - queue an SQE to be executed for the request
 * @ctx: the context of the program
 * @sqe: struct io_uring_sqe, see the uapi header for what it may say
 * @sqe__sz: its size
 * @target: 0, the files given at attach
 *
 * Return: 0 or a negative error.
 */
__bpf_kfunc int bpf_ublk_queue_sqe(struct ublk_bpf_ctx *ctx, const void *sqe,
				   u32 sqe__sz, u32 target)
{
	return ublk_bpf_plan_sqe(container_of(ctx, struct ublk_bpf_ctx_kern,
					      ctx),
				 sqe, sqe__sz, target);
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(ublk_bpf_kfunc_ids)
BTF_ID_FLAGS(func, bpf_ublk_queue_sqe)
BTF_KFUNCS_END(ublk_bpf_kfunc_ids)

static const struct btf_kfunc_id_set ublk_bpf_kfunc_set = {
	.owner	= THIS_MODULE,
	.set	= &ublk_bpf_kfunc_ids,
};

/* The program sees struct ublk_bpf_ctx as it is, there is no conversion */
static bool ublk_bpf_is_valid_access(int off, int size,
				     enum bpf_access_type type,
				     const struct bpf_prog *prog,
				     struct bpf_insn_access_aux *info)
{
	return type == BPF_READ && off >= 0 && off % size == 0 &&
		off + size <= sizeof(struct ublk_bpf_ctx);
}

const struct bpf_verifier_ops ublk_verifier_ops = {
	.get_func_proto		= bpf_base_func_proto,
	.is_valid_access	= ublk_bpf_is_valid_access,
};

/* no .test_run: a program without a request has nothing to plan for */
const struct bpf_prog_ops ublk_prog_ops = {
};

/* One type for both programs, which have the same context */
struct bpf_prog *ublk_bpf_face_get_prog(int fd, bool complete)
{
	return bpf_prog_get_type(fd, BPF_PROG_TYPE_UBLK);
}

static int __init ublk_bpf_prog_type_init(void)
{
	BUILD_BUG_ON(sizeof(struct io_uring_sqe) != 64);
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_UBLK,
					 &ublk_bpf_kfunc_set);
}
late_initcall(ublk_bpf_prog_type_init);
