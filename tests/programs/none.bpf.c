// SPDX-License-Identifier: GPL-2.0
/* none: a program, but none for ublk. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("socket")
int none(struct __sk_buff *skb)
{
	return skb->len;
}

char _license[] SEC("license") = "GPL";
