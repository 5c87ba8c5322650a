// SPDX-License-Identifier: GPL-2.0
/* slow_mark: a server's queue, before its command is marked as one that can be canceled. */
#include "spin.bpf.h"

SEC("fentry/io_uring_cmd_mark_cancelable")
int slow_mark(void *ctx __attribute__((unused)))
{
	if (task_is("ublk"))
		spin(1 << 15);
	return 0;
}

char _license[] SEC("license") = "GPL";
