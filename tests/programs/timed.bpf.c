// SPDX-License-Identifier: GPL-2.0
/* timed: concat, whose requests are timed. */
#include <ublk/latency.bpf.h>
#include "../../bpf/programs/concat.bpf.c"

UBLK_BPF_LATENCY(concat)
