// SPDX-License-Identifier: GPL-2.0
/*
 * randpass: loop for some requests, taken at random one by one; the server serves
 * the others, from the same file. What order a request's neighbours were given,
 * and where a flush goes, is chance.
 */
#include "loop_body.bpf.h"

/* of 256 requests the program redirects about so many */
const volatile __u32 redirect_of_256 = 128;

UBLK_BPF(randpass)
{
	if ((bpf_get_prandom_u32() & 0xff) >= redirect_of_256)
		return UBLK_BPF_IO_PASS;
	return loop_verdict(ctx);
}

char _license[] SEC("license") = "GPL";
