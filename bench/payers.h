/* SPDX-License-Identifier: MIT */
/* What bench/payers.bpf.c counts and bench/payers.c reads. */
#pragma once

enum payer { SUBMITTER, SERVER, KERNEL_THREADS, OTHER, IDLE, PAYERS };
enum mode { USER, SYSTEM, MODES };

#define COMM_LEN 16
#define MAX_NAMES 8
#define MAX_CPUS 1024

/* Processes are told apart by the name of their first thread. */
struct payer_name {
	char comm[COMM_LEN];
	unsigned int payer;
	unsigned int length; /* 0: the table ends before this one */
};

/* Of one processor. Times are CLOCK_MONOTONIC's, in ns. */
struct counts {
	unsigned long long ns[PAYERS][MODES];
	unsigned long long interrupts_ns;
	unsigned long long syscalls[PAYERS];
	unsigned long long wakeups[PAYERS];
	unsigned long long switches;
	unsigned long long copied_bytes;
	/* from here on the time is whose? */
	unsigned long long last;
	unsigned int payer, mode, interrupts;
};

/* All that was seen, .bss of payers.bpf.o. */
struct seen {
	struct counts cpus[MAX_CPUS];
	unsigned long long begin, end;
	unsigned int counting;
};
