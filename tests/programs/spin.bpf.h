/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For programs that are not of a device: they hold a task up in some place of the kernel, as an interrupt or a hypervisor may. Load
 * them with bpftool prog loadall ... autoattach (tests/vm/tracing.py).
 */
#ifndef SPIN_BPF_H
#define SPIN_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* how often a task has been held up */
__u64 times;

static long spin_once(__u32 i, void *sum)
{
	*(volatile __u64 *)sum += i;
	return 0;
}

static __always_inline void spin(__u32 rounds)
{
	__u64 sum = 0;

	__sync_fetch_and_add(&times, 1);
	bpf_loop(rounds, spin_once, &sum, 0);
}

/* Does the task's name begin with these four letters? */
static __always_inline _Bool task_is(const char *name)
{
	char comm[16];

	bpf_get_current_comm(comm, sizeof(comm));
	return comm[0] == name[0] && comm[1] == name[1] && comm[2] == name[2] && comm[3] == name[3];
}

#endif
