/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What kernels lack that are older than those that the engine is written for.
 * Comes before every file. One line each: a difference that needs more belongs
 * into that kernel's hooks.
 */
#ifndef UBLK_BPF_COMPAT_H
#define UBLK_BPF_COMPAT_H

#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/slab.h>

#ifndef blk_queue_disable_wbt	/* 6.16 */
/* a driver cannot say so: a flag that is set anyway */
#define QUEUE_FLAG_DISABLE_WBT_DEF	QUEUE_FLAG_SAME_COMP
#define bdev_limits(bdev)		(&bdev_get_queue(bdev)->limits)
#endif
#ifndef IS_ANON_FILE		/* 6.16: before, they are not regular files */
#define IS_ANON_FILE(inode)		false
#endif
#ifndef kzalloc_obj	/* 7.0 */
#define kzalloc_obj(P, flags)		((typeof(P) *)kzalloc(sizeof(P), flags))
#endif
#ifndef kzalloc_objs	/* 7.0 */
#define kzalloc_objs(P, n, flags)	((typeof(P) *)kcalloc(n, sizeof(P), flags))
#endif

#endif
