// SPDX-License-Identifier: GPL-2.0
/*
 * bad_sleepable: would run where nothing may sleep. Only a struct_ops program can
 * ask for it; for the program type the verifier's own list rules it out.
 */
#include <ublk/ublk.bpf.h>

SEC("?ublk")
int bad_sleepable(struct ublk_bpf_ctx *ctx __attribute__((unused)))
{
	return UBLK_BPF_IO_PASS;
}

SEC("?struct_ops.s/queue_io")
int bad_sleepable_so(__u64 *args __attribute__((unused)))
{
	return UBLK_BPF_IO_PASS;
}

SEC("?.struct_ops.link")
struct ublk_bpf_sqe_ops bad_sleepable_ops = {
	.queue_io = (int (*)(struct ublk_bpf_ctx *))bad_sleepable_so,
};

char _license[] SEC("license") = "GPL";
