// SPDX-License-Identifier: GPL-2.0
/*
 * ublk_drv.c of the kernel that this is built for. A module cannot have an
 * object of its own name, so that file is compiled from here.
 */
#include "ublk_drv.c"

MODULE_INFO(ublk_bpf, "struct_ops");
