// SPDX-License-Identifier: GPL-2.0
/* slow_done: a worker of io_uring's, where control commands run: one that cancels a server's commands has taken this one already. */
#include "spin.bpf.h"

SEC("fentry/__io_uring_cmd_done")
int slow_done(void *ctx __attribute__((unused)))
{
	if (task_is("iou-"))
		spin(1 << 18);
	return 0;
}

char _license[] SEC("license") = "GPL";
