// SPDX-License-Identifier: GPL-2.0
/*
 * pass: leaves every request to the server, as if there were no program. What
 * it costs to be asked is what a device with it costs more.
 */
#include <ublk/ublk.bpf.h>

UBLK_BPF(pass)
{
	return UBLK_BPF_IO_PASS;
}

char _license[] SEC("license") = "GPL";
