// SPDX-License-Identifier: MIT
//
// Who pays: whose time a processor spends, in user space, in the kernel, in interrupts, from the first getrusage() of the generator
// (bench/load.c) to its second. Every change of hands is a tracepoint; the time that a program here takes is left out, what it takes to
// get to it is not.
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "payers.h"

// The kernel's, as far as they are looked at; where in there is BTF's to say.
struct task_struct {
	int pid;
	unsigned int flags;
	char comm[COMM_LEN];
	struct task_struct *group_leader;
} __attribute__((preserve_access_index));

#define PF_KTHREAD 0x00200000 // include/linux/sched.h
#define NR_GETRUSAGE 98 // arch/x86/entry/syscalls/syscall_64.tbl

const volatile struct payer_name names[MAX_NAMES];

struct seen seen;

// Whether a task that is off its processor is in a system call.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, int);
	__type(value, unsigned int);
} modes SEC(".maps");

static __always_inline struct counts *here(void)
{
	const unsigned int cpu = bpf_get_smp_processor_id();

	return cpu < MAX_CPUS ? &seen.cpus[cpu] : NULL;
}

static __always_inline void charge(struct counts *c)
{
	const unsigned long long now = bpf_ktime_get_ns();
	const unsigned long long from = c->last > seen.begin ? c->last : seen.begin;
	const unsigned int payer = c->payer, mode = c->mode;

	if (!seen.counting || now <= from)
		return;
	if (c->interrupts)
		c->interrupts_ns += now - from;
	else if (payer < PAYERS && mode < MODES)
		c->ns[payer][mode] += now - from;
}

// Where only a task can be: no interrupt is being served, even if one's end was not seen, as it came before the program for it was attached.
static __always_inline void charge_task(struct counts *c)
{
	c->interrupts = 0;
	charge(c);
}

static __always_inline void go_on(struct counts *c)
{
	c->last = bpf_ktime_get_ns();
}

static __always_inline bool named(const volatile struct payer_name *name, const char *comm)
{
	for (int i = 0; i < COMM_LEN; i++) {
		if (i >= (int)name->length)
			return true;
		if (name->comm[i] != comm[i])
			return false;
	}
	return true;
}

static __always_inline unsigned int payer_of(struct task_struct *task)
{
	char comm[COMM_LEN];

	if (!task->pid)
		return IDLE;
	if (task->flags & PF_KTHREAD)
		return KERNEL_THREADS;
	bpf_probe_read_kernel(comm, sizeof(comm), &task->group_leader->comm);
	for (int i = 0; i < MAX_NAMES; i++) {
		if (!names[i].length)
			break;
		if (named(&names[i], comm))
			return names[i].payer;
	}
	return OTHER;
}

// The generator's first and second getrusage(). Returns whether it is the generator's.
static __always_inline bool window(void)
{
	if (payer_of(bpf_get_current_task_btf()) != SUBMITTER)
		return false;
	if (!seen.begin) {
		seen.begin = bpf_ktime_get_ns();
		seen.counting = true;
	} else if (!seen.end) {
		seen.counting = false;
		seen.end = bpf_ktime_get_ns();
	}
	return true;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct counts *c = here();
	int prev_pid = prev->pid, next_pid = next->pid;
	unsigned int *mode;

	if (!c)
		return 0;
	charge_task(c);
	if (seen.counting)
		c->switches++;
	if (prev_pid)
		bpf_map_update_elem(&modes, &prev_pid, &c->mode, BPF_ANY);
	mode = bpf_map_lookup_elem(&modes, &next_pid);
	// Of one that was not seen before it is known that it slept, which is done in the kernel.
	c->mode = mode ? *mode : SYSTEM;
	c->payer = payer_of(next);
	go_on(c);
	return 0;
}

// Beside on_enter(), for runs that look at nothing else.
SEC("tp_btf/sys_enter")
int BPF_PROG(on_window, void *regs, long id)
{
	if (id == NR_GETRUSAGE)
		window();
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, void *regs, long id)
{
	struct counts *c = here();

	if (!c)
		return 0;
	charge_task(c);
	if (seen.counting && c->payer < PAYERS)
		c->syscalls[c->payer]++;
	c->mode = SYSTEM;
	if (id == NR_GETRUSAGE && window())
		c->payer = SUBMITTER;
	go_on(c);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_exit, void *regs, long ret)
{
	struct counts *c = here();

	if (!c)
		return 0;
	charge_task(c);
	c->mode = USER;
	go_on(c);
	return 0;
}

static __always_inline int interrupt(int change)
{
	struct counts *c = here();

	if (!c)
		return 0;
	charge(c);
	if (change > 0 || c->interrupts)
		c->interrupts += change;
	go_on(c);
	return 0;
}

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(on_irq_entry)
{
	return interrupt(1);
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(on_irq_exit)
{
	return interrupt(-1);
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(on_softirq_entry)
{
	return interrupt(1);
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(on_softirq_exit)
{
	return interrupt(-1);
}

SEC("tp_btf/sched_waking")
int BPF_PROG(on_waking, struct task_struct *task)
{
	struct counts *c = here();
	unsigned int payer;

	if (!c || !seen.counting)
		return 0;
	charge(c);
	payer = payer_of(task);
	if (payer < PAYERS)
		c->wakeups[payer]++;
	go_on(c);
	return 0;
}

static __always_inline int copied(unsigned long bytes)
{
	struct counts *c = here();

	if (!c || !seen.counting)
		return 0;
	c->copied_bytes += bytes;
	return 0;
}

// What is copied for an iov_iter: read() and write(), sockets, the page cache, the driver's copy path. Not copy_to_user() of small structures.
// These are breakpoints (bench/payers.c), as lib/ is compiled without what probes want, and so dear that they are counted in a run of their own.
SEC("perf_event")
int on_copy_to(struct bpf_perf_event_data *data)
{
	return copied(PT_REGS_PARM2(&data->regs));
}

SEC("perf_event")
int on_copy_from(struct bpf_perf_event_data *data)
{
	return copied(PT_REGS_PARM2(&data->regs));
}

SEC("perf_event")
int on_copy_into_page_cache(struct bpf_perf_event_data *data)
{
	return copied(PT_REGS_PARM3(&data->regs));
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
