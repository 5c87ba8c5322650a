// SPDX-License-Identifier: GPL-2.0
/*
 * slow_return: not a program of a device's. It holds up a task whose name begins with "held" between the submission of its direct I/O
 * to a file and the return of ->read_iter(), as an interrupt or a hypervisor may. Load it with bpftool prog loadall ... autoattach.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static long spin(__u32 i, void *sum)
{
	*(volatile __u64 *)sum += i;
	return 0;
}

SEC("tracepoint/iomap/iomap_dio_rw_queued")
int slow_return(void *ctx __attribute__((unused)))
{
	char comm[16];
	__u64 sum = 0;

	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] == 'h' && comm[1] == 'e' && comm[2] == 'l' && comm[3] == 'd')
		bpf_loop(1 << 17, spin, &sum, 0);
	return 0;
}

char _license[] SEC("license") = "GPL";
