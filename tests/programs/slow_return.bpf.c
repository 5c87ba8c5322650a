// SPDX-License-Identifier: GPL-2.0
/* slow_return: a task whose name begins with "held", between the submission of its direct I/O to a file and the return of ->read_iter(). */
#include "spin.bpf.h"

SEC("tracepoint/iomap/iomap_dio_rw_queued")
int slow_return(void *ctx __attribute__((unused)))
{
	if (task_is("held"))
		spin(1 << 17);
	return 0;
}

char _license[] SEC("license") = "GPL";
