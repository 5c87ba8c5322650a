// SPDX-License-Identifier: GPL-2.0
/*
 * null: completes every request at once. Writes are dropped, reads return
 * zeroes, flushes and discards do nothing. It needs no file.
 */
#include <ublk/ublk.bpf.h>

UBLK_BPF(null)
{
	return UBLK_BPF_IO_DROP;
}

char _license[] SEC("license") = "GPL";
