// SPDX-License-Identifier: GPL-2.0
/*
 * The face of a kernel without BPF_PROG_TYPE_UBLK: programs are those of
 * struct ublk_bpf_sqe_ops, a struct_ops of the ublk_drv module. They are attached
 * by the control command, as everywhere; a struct_ops link attaches nothing.
 */
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/module.h>
#include "ublk_bpf_int.h"

/**
 * struct ublk_bpf_sqe_ops - what a struct_ops map of this module has
 * @queue_io:	the program, returns enum ublk_bpf_verdict
 * @complete_io: the completion program, returns 0, a negative errno,
 *		UBLK_BPF_IO_PASS or UBLK_BPF_IO_REDIRECT
 */
struct ublk_bpf_sqe_ops {
	int (*queue_io)(struct ublk_bpf_ctx_kern *kctx);
	int (*complete_io)(struct ublk_bpf_ctx_kern *kctx);
};

/* A program's ->expected_attach_type: which member it is for */
enum {
	UBLK_BPF_QUEUE_IO,
	UBLK_BPF_COMPLETE_IO,
};

u64 ublk_bpf_features;
static struct btf *ublk_bpf_btf;	/* of this module */

__bpf_kfunc_start_defs();

/**
 * bpf_ublk_queue_sqe - queue an SQE to be executed for the request
 * @kctx: the context of the program
 * @sqe: struct io_uring_sqe, see the uapi header for what it may say
 * @sqe__sz: its size
 * @target: 0, the files given at attach
 *
 * Return: 0 or a negative error.
 */
__bpf_kfunc int bpf_ublk_queue_sqe(struct ublk_bpf_ctx_kern *kctx,
				   const void *sqe, u32 sqe__sz, u32 target)
{
	return ublk_bpf_plan_sqe(kctx, sqe, sqe__sz, target);
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(ublk_bpf_kfunc_ids)
BTF_ID_FLAGS(func, bpf_ublk_queue_sqe)
BTF_KFUNCS_END(ublk_bpf_kfunc_ids)

/* No other struct_ops has a struct ublk_bpf_ctx_kern to give; be explicit */
static int ublk_bpf_kfunc_filter(const struct bpf_prog *prog, u32 id)
{
	if (!btf_id_set8_contains(&ublk_bpf_kfunc_ids, id))
		return 0;
	return prog->type == BPF_PROG_TYPE_STRUCT_OPS &&
		prog->aux->attach_btf == ublk_bpf_btf ? 0 : -EACCES;
}

static const struct btf_kfunc_id_set ublk_bpf_kfunc_set = {
	.owner	= THIS_MODULE,
	.set	= &ublk_bpf_kfunc_ids,
	.filter	= ublk_bpf_kfunc_filter,
};

static bool ublk_bpf_is_valid_access(int off, int size,
				     enum bpf_access_type type,
				     const struct bpf_prog *prog,
				     struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

/* No .btf_struct_access: what the argument points to is read only */
static const struct bpf_verifier_ops ublk_bpf_verifier_ops = {
	.get_func_proto		= bpf_base_func_proto,
	.is_valid_access	= ublk_bpf_is_valid_access,
};

static int ublk_bpf_ops_init(struct btf *btf)
{
	ublk_bpf_btf = btf;
	return 0;
}

static int ublk_bpf_ops_check_member(const struct btf_type *t,
				     const struct btf_member *member,
				     const struct bpf_prog *prog)
{
	/* it runs under rcu_read_lock() */
	return prog->sleepable ? -EINVAL : 0;
}

static int ublk_bpf_ops_init_member(const struct btf_type *t,
				    const struct btf_member *member,
				    void *kdata, const void *udata)
{
	return 0;
}

/* The link would have to wait for I/O while it holds a global mutex */
static int ublk_bpf_ops_reg(void *kdata, struct bpf_link *link)
{
	return -EOPNOTSUPP;
}

static void ublk_bpf_ops_unreg(void *kdata, struct bpf_link *link)
{
}

static int ublk_bpf_ops__queue_io(struct ublk_bpf_ctx_kern *kctx)
{
	return UBLK_BPF_IO_ABORTED;
}

static int ublk_bpf_ops__complete_io(struct ublk_bpf_ctx_kern *kctx)
{
	return kctx->ctx.result;
}

static struct ublk_bpf_sqe_ops ublk_bpf_ops_stubs = {
	.queue_io	= ublk_bpf_ops__queue_io,
	.complete_io	= ublk_bpf_ops__complete_io,
};

static struct bpf_struct_ops ublk_bpf_struct_ops = {
	.verifier_ops	= &ublk_bpf_verifier_ops,
	.init		= ublk_bpf_ops_init,
	.check_member	= ublk_bpf_ops_check_member,
	.init_member	= ublk_bpf_ops_init_member,
	.reg		= ublk_bpf_ops_reg,
	.unreg		= ublk_bpf_ops_unreg,
	.cfi_stubs	= &ublk_bpf_ops_stubs,
	.name		= "ublk_bpf_sqe_ops",
	.owner		= THIS_MODULE,
};

/* A program of ours, verified since this module was loaded; or an error */
struct bpf_prog *ublk_bpf_face_get_prog(int fd, bool complete)
{
	const int member = complete ? UBLK_BPF_COMPLETE_IO : UBLK_BPF_QUEUE_IO;
	struct bpf_prog *prog;

	prog = bpf_prog_get_type_dev(fd, BPF_PROG_TYPE_STRUCT_OPS, false);
	if (IS_ERR(prog))
		return prog;
	if (!ublk_bpf_btf || prog->aux->attach_btf != ublk_bpf_btf ||
	    prog->expected_attach_type != member) {
		bpf_prog_put(prog);
		return ERR_PTR(-EINVAL);
	}
	return prog;
}

int ublk_bpf_init(void)
{
	int ret;

	BUILD_BUG_ON(sizeof(struct io_uring_sqe) != 64);
	ret = ublk_bpf_init_queues();
	if (ret)
		return ret;
	ret = register_btf_kfunc_id_set(BPF_PROG_TYPE_STRUCT_OPS,
					&ublk_bpf_kfunc_set);
	if (!ret)
		ret = register_bpf_struct_ops(&ublk_bpf_struct_ops,
					      ublk_bpf_sqe_ops);
	if (ret) {
		ublk_bpf_exit_queues();
		return ret;
	}
	if (ublk_bpf_btf)
		ublk_bpf_features = UBLK_F_BPF;
	else
		pr_warn("ublk: the module has no BTF: no BPF programs\n");
	return 0;
}

/* All devices are gone */
void ublk_bpf_exit(void)
{
	ublk_bpf_exit_queues();
}
