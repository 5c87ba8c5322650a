// SPDX-License-Identifier: GPL-2.0
/* bad_license: it calls the kernel and does not say that it may. */
#include "loop_body.bpf.h"

UBLK_BPF(bad_license)
{
	return loop_verdict(ctx);
}
