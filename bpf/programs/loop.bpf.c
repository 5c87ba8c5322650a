// SPDX-License-Identifier: GPL-2.0
/*
 * loop: the device is file 0, a regular file or a block device, from byte
 * `offset` on. A flush is an fdatasync, a discard punches a hole, writing
 * zeroes punches one or, where the submitter wants to keep the space, zeroes
 * the range. Other operations are passed to the server.
 *
 * It does not check that the file is as long as the device: reading and writing
 * past its end is an I/O error.
 */
#include <ublk/sqe.bpf.h>

/* where in the file the device begins, bytes; a multiple of its block size */
const volatile __u64 offset;

UBLK_BPF(loop)
{
	return ublk_bpf_queue_all(ctx, 0, offset + ublk_bpf_start_bytes(ctx));
}

char _license[] SEC("license") = "GPL";
