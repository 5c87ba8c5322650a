/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The contract between the kernel, BPF programs that serve ublk requests, and
 * the tools that attach them. All three include this one file.
 *
 * A device that is added with UBLK_F_BPF may have one BPF program attached.
 * For each request the program runs first and only plans: each call of
 * bpf_ublk_queue_sqe() checks one struct io_uring_sqe and copies it. Nothing is
 * issued before the program has returned UBLK_BPF_IO_REDIRECT; any other
 * verdict forgets the plan. A second program, the completion program, may look
 * at what the plan came to, and say how the request goes on.
 *
 * "Request" is what the program sees: a request of the block layer, or a bio of
 * which no request has been made yet, see UBLK_BPF_ATTACH_F_REQUESTS.
 *
 * All numbers are in native byte order. Structures only grow at their end.
 */
#ifndef _UAPI_LINUX_UBLK_BPF_H
#define _UAPI_LINUX_UBLK_BPF_H

#include <linux/types.h>

/*
 * Device flag, see UBLK_U_CMD_ADD_DEV and UBLK_U_CMD_GET_FEATURES. It cannot
 * be combined with UBLK_F_UNPRIVILEGED_DEV, UBLK_F_ZONED or UBLK_F_INTEGRITY
 * (-EINVAL). A high bit, clear of what the driver may add next.
 */
#define UBLK_F_BPF		0x1000000000000ULL	/* bit 48 */

/*
 * ->version of struct ublk_bpf_info. Kernels that have another one number, but
 * not this header's structures, are none of ours.
 *
 * 1	the plan
 * 2	the completion program, errors to user space, DRAIN_BPF, bios
 */
#define UBLK_BPF_VERSION	2

/*
 * In ->op_flags of struct ublksrv_io_desc, beside UBLK_IO_F_*: the program's
 * plan for this request was executed and failed, see
 * UBLK_BPF_ATTACH_F_PASS_ERRORS. A part of it may have been done.
 */
#define UBLK_IO_F_BPF_FAILED	(1U << 30)

/*
 * Control commands, on /dev/ublk-control, CAP_SYS_ADMIN. As with the other
 * commands, struct ublksrv_ctrl_cmd has the device in ->dev_id, the address of
 * the argument in ->addr and its size in ->len.
 *
 * ATTACH_BPF	struct ublk_bpf_attach
 * DETACH_BPF	no argument; -ENOENT if nothing is attached
 * GET_BPF_INFO	struct ublk_bpf_info, filled in up to ->len bytes
 * DRAIN_BPF	no argument; -ENOENT if nothing is attached. Returns when all
 *		requests are done that were planned before the command (by this
 *		program or by one that it has replaced), while it goes on with
 *		others. Nothing is synced. -EINTR, -ECANCELED: see below
 *
 * All: -ENODEV if there is no such device, -EOPNOTSUPP if it was added without
 * UBLK_F_BPF. When ATTACH_BPF (replacing) or DETACH_BPF returns, no request
 * uses the previous program and its files any more, and what was written to
 * them is durable. A FLUSH of the device meanwhile waits until it is, so that
 * what had completed before a FLUSH is durable when that returns, whoever
 * serves it. Two errors say that the command has done its work all the same:
 *
 * -EINTR	a fatal signal came while it waited for the above, which goes
 *		on without it, see ->nr_retiring of struct ublk_bpf_info. One
 *		more DETACH_BPF waits for it again
 * the error of fsync(2), if a file could not be synced: counted in
 *		->sync_failed, and each FLUSH that waited, or else the next
 *		one, fails too
 *
 * -ECANCELED: a fatal signal came before anything was done.
 *
 * _IOWR() comes from linux/ioctl.h, struct ublksrv_ctrl_cmd from
 * linux/ublk_cmd.h: whoever uses the encoded commands includes these.
 */
#define UBLK_CMD_ATTACH_BPF	0x70
#define UBLK_CMD_DETACH_BPF	0x71
#define UBLK_CMD_GET_BPF_INFO	0x72
#define UBLK_CMD_DRAIN_BPF	0x73
#define UBLK_U_CMD_ATTACH_BPF	\
	_IOWR('u', UBLK_CMD_ATTACH_BPF, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_DETACH_BPF	\
	_IOWR('u', UBLK_CMD_DETACH_BPF, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_BPF_INFO	\
	_IOWR('u', UBLK_CMD_GET_BPF_INFO, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_DRAIN_BPF	\
	_IOWR('u', UBLK_CMD_DRAIN_BPF, struct ublksrv_ctrl_cmd)

#define UBLK_BPF_MAX_FILES	16	/* of one attachment */
#define UBLK_BPF_MAX_SQES	8	/* of one request */
#define UBLK_BPF_MAX_ROUNDS	16	/* plans for one request, see below */
#define UBLK_BPF_MAX_DEPTH	8	/* of devices whose programs' files are devices */

/* Take the place of an attached program; without it, attach is -EBUSY then */
#define UBLK_BPF_ATTACH_F_REPLACE	0x1U
/* Never issue in the submitter's context, always from a worker (as loop does) */
#define UBLK_BPF_ATTACH_F_NO_INLINE	0x2U
/*
 * By default, READ and WRITE are issued in the submitter's context to files
 * that are open for direct I/O: to block devices always, to regular files while
 * nobody has claimed the ublk device (mounted it, swaps to it, maps it), and
 * READs of data even then, if the file's time of access is not noted. With this
 * flag WRITEs and READs of metadata too: for backing file systems known to be
 * safe below the one that is mounted.
 */
#define UBLK_BPF_ATTACH_F_INLINE_REG	0x4U
/* ->complete_fd is the completion program */
#define UBLK_BPF_ATTACH_F_COMPLETE	0x8U
/*
 * A request whose plan fails is handed to the server, with UBLK_IO_F_BPF_FAILED,
 * instead of failing. While there is no server it waits or fails as the
 * device's recovery flags say. With a completion program: what that completes
 * with an error.
 */
#define UBLK_BPF_ATTACH_F_PASS_ERRORS	0x10U
/*
 * By default the program sees a READ or WRITE as the bio that it is, before the
 * block layer makes a request of it: it is not merged, no scheduler sees it,
 * and there is no queue and no tag. With this flag it sees requests only.
 * It sees them, too, of partitions (of a module on a stock kernel), while the
 * device has an I/O scheduler, and whenever memory is short.
 */
#define UBLK_BPF_ATTACH_F_REQUESTS	0x20U

/* ->q_id and ->tag of a bio */
#define UBLK_BPF_NO_TAG		0xffffU

/**
 * struct ublk_bpf_attach - argument of UBLK_U_CMD_ATTACH_BPF
 * @prog_fd:	the program, see docs for which type on which kernel. The
 *		attachment keeps a reference, the caller may close it
 * @flags:	UBLK_BPF_ATTACH_F_*
 * @nr_files:	valid entries of @fds, 0..UBLK_BPF_MAX_FILES
 * @complete_fd: with UBLK_BPF_ATTACH_F_COMPLETE, the completion program; else 0
 * @fds:	what the ->fd of an SQE indexes: regular files or block devices.
 *		The attachment keeps references. How each was opened decides:
 *		O_DIRECT or buffered, readable, writable
 *
 * -EINVAL: unknown flag, too many files, a program that is not one for
 *	ublk, or of the wrong one of the two kinds where the kernel can tell
 *	them apart, a file that is neither regular nor a block device (an
 *	anonymous inode is neither), or is open with O_APPEND, or needs direct
 *	I/O to be aligned more than the device's logical block size (offset,
 *	length) or DMA alignment (memory, UBLK_PARAM_TYPE_DMA_ALIGN) makes it
 * -ELOOP: a file is the device itself, is stored on it, or leads back to it
 *	through the programs of other devices; or there would be more than
 *	UBLK_BPF_MAX_DEPTH devices one above the other. A program that was
 *	replaced counts until its files are synced. Not seen: what other
 *	devices (loop, device mapper) are made of, and all but the first of
 *	several devices that a file system is on
 * -EBADF: a file descriptor that is not open
 * -EBUSY: a program is attached and UBLK_BPF_ATTACH_F_REPLACE is not set
 * -ETXTBSY: a file needs the data of a write to stay as it is meanwhile (it is
 *	checksummed or compressed), and somebody has opened the device before it
 *	could tell its users. Without users it is attached, and tells them
 * -ENODEV: the device has not been started, or is being stopped
 */
struct ublk_bpf_attach {
	__s32	prog_fd;
	__u32	flags;
	__u32	nr_files;
	__s32	complete_fd;
	__s32	fds[UBLK_BPF_MAX_FILES];
};

/**
 * struct ublk_bpf_ctx - context of both programs, read only
 * @q_id:	hardware queue, or UBLK_BPF_NO_TAG
 * @tag:	unique among the queue's requests in flight, or UBLK_BPF_NO_TAG
 * @op:		UBLK_IO_OP_*
 * @round:	how many plans were executed: 0, in the completion program 1 to
 *		UBLK_BPF_MAX_ROUNDS
 * @failed:	completion program: bit N says that SQE N of the last plan failed,
 *		or was not issued as the one that it is linked to failed
 * @pad:	0
 * @flags:	UBLK_IO_F_*
 * @nr_sectors:	length in sectors of 512 bytes, 0 for UBLK_IO_OP_FLUSH
 * @start_sector: first sector of 512 bytes, on the whole device
 * @dev_id:	N of /dev/ublkbN
 * @nr_files:	attached files, valid ->fd are below
 * @result:	completion program: what the last plan came to, 0 or the negative
 *		errno of its first error. Else 0
 * @pad2:	0
 * @user_data:	completion program: of the last plan's first SQE. Else 0
 */
struct ublk_bpf_ctx {
	__u16	q_id;
	__u16	tag;
	__u8	op;
	__u8	round;
	__u8	failed;
	__u8	pad;
	__u32	flags;
	__u32	nr_sectors;
	__u64	start_sector;
	__u32	dev_id;
	__u32	nr_files;
	__s32	result;
	__u32	pad2;
	__u64	user_data;
};

/*
 * What the program returns. The numbers are those of the RFC of February 2023.
 *
 * UBLK_BPF_IO_ABORTED	fail the request with an I/O error
 * UBLK_BPF_IO_DROP	complete it without I/O: writes are dropped, reads
 *			return zeroes
 * UBLK_BPF_IO_PASS	hand it to the user space server, as ublk always did
 * UBLK_BPF_IO_REDIRECT	the kernel executes the plan, then completes the request
 *
 * Any other value fails the request.
 *
 * The completion program runs when all SQEs of a plan are done, in any context,
 * interrupts included. It returns
 *
 * 0 or a negative errno	complete the request with it: ctx->result leaves
 *				it as it is. A READ that completes with 0 after
 *				an SQE of it failed shows zeroes, not memory
 * UBLK_BPF_IO_PASS		hand it to the server, as from the start. With
 *				UBLK_IO_F_BPF_FAILED, if ctx->result is an error
 * UBLK_BPF_IO_REDIRECT		execute the plan that it has queued, from a
 *				worker, and run it again. Bytes of a READ that
 *				this plan does not cover keep what those before
 *				have read. After UBLK_BPF_MAX_ROUNDS plans the
 *				request fails with EIO
 *
 * Any other value fails the request.
 */
enum ublk_bpf_verdict {
	UBLK_BPF_IO_ABORTED	= 0,
	UBLK_BPF_IO_DROP	= 1,
	UBLK_BPF_IO_PASS	= 2,
	UBLK_BPF_IO_REDIRECT	= 3,
};

/*
 * What a plan is made of: int bpf_ublk_queue_sqe(ctx, sqe, sizeof(*sqe), 0),
 * 0 or a negative error, with a struct io_uring_sqe whose
 *
 * ->fd		indexes the attached files (IOSQE_FIXED_FILE is implied)
 * ->flags	IOSQE_IO_LINK: the next SQE is issued when this one has
 *		succeeded, and is not issued if it failed. SQEs that are not
 *		linked run in parallel, in no order
 * ->user_data	of the first SQE is ->user_data of the completion program's
 *		context; else it is ignored. All that is not named here must
 *		be 0
 *
 * IORING_OP_READ, IORING_OP_READ_FIXED	for UBLK_IO_OP_READ
 * IORING_OP_WRITE, IORING_OP_WRITE_FIXED	for UBLK_IO_OP_WRITE
 *	->off, ->len bytes of the file; ->addr is the byte offset in the
 *	request's data; ->rw_flags of RWF_DSYNC | RWF_SYNC. Of a file that is
 *	open for direct I/O all three are multiples of what the file needs
 *	(a block device's logical block, STATX_DIOALIGN), and of 512 at least.
 *	Short I/O is continued, no progress (end of file) is an I/O error.
 *	UBLK_IO_F_FUA is honoured whatever ->rw_flags says, and each write is
 *	made durable if the device does not announce a volatile cache
 * IORING_OP_FSYNC	->fsync_flags of IORING_FSYNC_DATASYNC
 * IORING_OP_FALLOCATE	for UBLK_IO_OP_DISCARD and UBLK_IO_OP_WRITE_ZEROES:
 *	->off in the file, ->addr the length in bytes, ->len the mode, which is
 *	FALLOC_FL_KEEP_SIZE with one of FALLOC_FL_PUNCH_HOLE and
 *	FALLOC_FL_ZERO_RANGE
 * IORING_OP_NOP	does nothing
 *
 * Rules for the whole plan, checked when the verdict is UBLK_BPF_IO_REDIRECT:
 * - Bytes of a READ that no SQE covers read as zeroes. If an SQE of it fails,
 *   all of it does, and all its bytes are zeroes.
 * - A WRITE must be covered wholly. The lengths of the FALLOCATEs for
 *   UBLK_IO_OP_WRITE_ZEROES must add up to the request's at least; what two of
 *   them have in common in one file counts once.
 * - A FLUSH must FSYNC every file that was written since the program was
 *   attached.
 * - If an SQE was refused, the request fails. (The program may have another
 *   verdict for it, for example UBLK_BPF_IO_PASS.)
 * The request completes when all issued SQEs have; the first error wins.
 */

/*
 * Why an SQE, a plan or a verdict was refused, in struct ublk_bpf_refused. In
 * brackets: what bpf_ublk_queue_sqe() returned or, for whole plans, EIO.
 */
enum ublk_bpf_reason {
	UBLK_BPF_REFUSED_NONE		= 0,
	/* sqe__sz is not 64, or target is not 0 [EINVAL] */
	UBLK_BPF_REFUSED_SIZE		= 1,
	/* more than UBLK_BPF_MAX_SQES [ENOSPC] */
	UBLK_BPF_REFUSED_FULL		= 2,
	/* ->flags beyond IOSQE_FIXED_FILE | IOSQE_IO_LINK [EINVAL] */
	UBLK_BPF_REFUSED_FLAGS		= 3,
	/* a field that must be 0 is not [EINVAL] */
	UBLK_BPF_REFUSED_RESERVED	= 4,
	/* ->opcode is none of the above [EOPNOTSUPP] */
	UBLK_BPF_REFUSED_OPCODE		= 5,
	/* ->fd is not below nr_files [EBADF] */
	UBLK_BPF_REFUSED_FD		= 6,
	/* ->opcode is not one for the request's operation [EINVAL] */
	UBLK_BPF_REFUSED_DIRECTION	= 7,
	/* the file is not open for it [EBADF] */
	UBLK_BPF_REFUSED_FILE_MODE	= 8,
	/*
	 * [->addr, ->addr + ->len) is not within the request's data, or ->addr
	 * is not aligned as the file's direct I/O needs it [EFAULT]
	 */
	UBLK_BPF_REFUSED_DATA		= 9,
	/*
	 * the length is 0 or, of FALLOCATE, beyond the request's, or not
	 * aligned as the file's direct I/O needs it [EINVAL]
	 */
	UBLK_BPF_REFUSED_LEN		= 10,
	/*
	 * ->off is negative, or its end is, or it is not aligned as the file's
	 * direct I/O needs it [EINVAL]
	 */
	UBLK_BPF_REFUSED_OFF		= 11,
	/* ->rw_flags beyond RWF_DSYNC | RWF_SYNC [EOPNOTSUPP] */
	UBLK_BPF_REFUSED_RW_FLAGS	= 12,
	/* ->fsync_flags beyond IORING_FSYNC_DATASYNC [EINVAL] */
	UBLK_BPF_REFUSED_FSYNC_FLAGS	= 13,
	/* mode of FALLOCATE [EOPNOTSUPP] */
	UBLK_BPF_REFUSED_MODE		= 14,
	/* REDIRECT without any SQE */
	UBLK_BPF_REFUSED_EMPTY		= 15,
	/* REDIRECT after an SQE was refused */
	UBLK_BPF_REFUSED_PLAN		= 16,
	/* WRITE or WRITE_ZEROES not covered wholly */
	UBLK_BPF_REFUSED_UNCOVERED	= 17,
	/* FLUSH without an FSYNC of a written file */
	UBLK_BPF_REFUSED_NO_FSYNC	= 18,
	/*
	 * what the program or the completion program returned has no meaning,
	 * or is one more plan after UBLK_BPF_MAX_ROUNDS
	 */
	UBLK_BPF_REFUSED_VERDICT	= 19,
	UBLK_BPF_NR_REFUSED		= 20,
};

/**
 * struct ublk_bpf_refused - how often something was refused for one reason
 * @error:	positive errno
 * @reserved:	0
 * @count:	since the device was added
 */
struct ublk_bpf_refused {
	__u32	error;
	__u32	reserved;
	__u64	count;
};

/**
 * struct ublk_bpf_last_refused - the last SQE, plan or verdict refused
 * @reason:	enum ublk_bpf_reason, UBLK_BPF_REFUSED_NONE if there was none.
 *		For a whole plan, only @op, q_id, tag and @value are valid
 * @op:		UBLK_IO_OP_* of the request
 * @opcode:	of the SQE
 * @sqe_flags:	of the SQE
 * @reserved:	0
 * @q_id:	of the request
 * @tag:	of the request
 * @fd:		of the SQE
 * @len:	of the SQE
 * @off:	of the SQE
 * @addr:	of the SQE
 * @value:	->rw_flags of the SQE, or the verdict
 */
struct ublk_bpf_last_refused {
	__u32	reason;
	__u8	op;
	__u8	opcode;
	__u8	sqe_flags;
	__u8	reserved;
	__u16	q_id;
	__u16	tag;
	__s32	fd;
	__u32	len;
	__u32	value;
	__u64	off;
	__u64	addr;
};

/**
 * struct ublk_bpf_info - result of UBLK_U_CMD_GET_BPF_INFO
 * @prog_id:	BPF program id of what is attached, 0 if nothing is
 * @attach_flags: UBLK_BPF_ATTACH_F_* it was attached with
 * @nr_files:	of the attachment
 * @pdu_bytes:	driver data of one request, in bytes
 * @nr_attach:	how often a program was attached since the device was added
 * @redirected:	requests whose plan was executed
 * @passed:	requests handed to the server by a program
 * @dropped:	requests completed without I/O
 * @aborted:	requests failed by a program's verdict or a refused plan
 * @failed:	of the redirected ones, how many completed with an error
 * @sqes:	SQEs of executed plans
 * @deferred:	SQEs issued from a worker, each time that they were
 * @refused:	by enum ublk_bpf_reason
 * @last:	the last refusal
 * @nr_retiring: replaced or detached programs of which requests are still
 *		executed, or files are still synced. FLUSHes wait for it
 * @sync_error:	positive errno of the last of these syncs that failed, 0 if none
 * @sync_failed: how many have
 * @version:	UBLK_BPF_VERSION of the kernel
 * @complete_id: BPF program id of the completion program, 0 if there is none
 * @bios:	of the redirected ones, how many were bios
 * @rounds:	plans executed beyond the first of a request
 * @passed_late: requests handed to the server by the completion program
 * @errors_passed: requests handed to the server as they failed
 * @retries:	of @rounds, how many followed a plan that had failed
 *
 * Counters are since the device was added and never reset; they are read
 * without stopping I/O.
 */
struct ublk_bpf_info {
	__u32	prog_id;
	__u32	attach_flags;
	__u32	nr_files;
	__u32	pdu_bytes;
	__u64	nr_attach;
	__u64	redirected;
	__u64	passed;
	__u64	dropped;
	__u64	aborted;
	__u64	failed;
	__u64	sqes;
	__u64	deferred;
	struct ublk_bpf_refused	refused[UBLK_BPF_NR_REFUSED];
	struct ublk_bpf_last_refused last;
	__u32	nr_retiring;
	__u32	sync_error;
	__u64	sync_failed;
	__u32	version;
	__u32	complete_id;
	__u64	bios;
	__u64	rounds;
	__u64	passed_late;
	__u64	errors_passed;
	__u64	retries;
};

#ifdef __cplusplus
#define __UBLK_BPF_ASSERT(cond)	static_assert(cond, #cond)
#else
#define __UBLK_BPF_ASSERT(cond)	_Static_assert(cond, #cond)
#endif
#define __UBLK_BPF_AT(type, member, off) \
	__UBLK_BPF_ASSERT(__builtin_offsetof(struct type, member) == (off))

__UBLK_BPF_ASSERT(sizeof(struct ublk_bpf_attach) == 80);
__UBLK_BPF_AT(ublk_bpf_attach, prog_fd, 0);
__UBLK_BPF_AT(ublk_bpf_attach, flags, 4);
__UBLK_BPF_AT(ublk_bpf_attach, nr_files, 8);
__UBLK_BPF_AT(ublk_bpf_attach, complete_fd, 12);
__UBLK_BPF_AT(ublk_bpf_attach, fds, 16);
__UBLK_BPF_ASSERT(sizeof(struct ublk_bpf_ctx) == 48);
__UBLK_BPF_AT(ublk_bpf_ctx, q_id, 0);
__UBLK_BPF_AT(ublk_bpf_ctx, tag, 2);
__UBLK_BPF_AT(ublk_bpf_ctx, op, 4);
__UBLK_BPF_AT(ublk_bpf_ctx, round, 5);
__UBLK_BPF_AT(ublk_bpf_ctx, failed, 6);
__UBLK_BPF_AT(ublk_bpf_ctx, pad, 7);
__UBLK_BPF_AT(ublk_bpf_ctx, flags, 8);
__UBLK_BPF_AT(ublk_bpf_ctx, nr_sectors, 12);
__UBLK_BPF_AT(ublk_bpf_ctx, start_sector, 16);
__UBLK_BPF_AT(ublk_bpf_ctx, dev_id, 24);
__UBLK_BPF_AT(ublk_bpf_ctx, nr_files, 28);
__UBLK_BPF_AT(ublk_bpf_ctx, result, 32);
__UBLK_BPF_AT(ublk_bpf_ctx, pad2, 36);
__UBLK_BPF_AT(ublk_bpf_ctx, user_data, 40);
__UBLK_BPF_ASSERT(sizeof(struct ublk_bpf_refused) == 16);
__UBLK_BPF_AT(ublk_bpf_refused, error, 0);
__UBLK_BPF_AT(ublk_bpf_refused, reserved, 4);
__UBLK_BPF_AT(ublk_bpf_refused, count, 8);
__UBLK_BPF_ASSERT(sizeof(struct ublk_bpf_last_refused) == 40);
__UBLK_BPF_AT(ublk_bpf_last_refused, reason, 0);
__UBLK_BPF_AT(ublk_bpf_last_refused, op, 4);
__UBLK_BPF_AT(ublk_bpf_last_refused, opcode, 5);
__UBLK_BPF_AT(ublk_bpf_last_refused, sqe_flags, 6);
__UBLK_BPF_AT(ublk_bpf_last_refused, reserved, 7);
__UBLK_BPF_AT(ublk_bpf_last_refused, q_id, 8);
__UBLK_BPF_AT(ublk_bpf_last_refused, tag, 10);
__UBLK_BPF_AT(ublk_bpf_last_refused, fd, 12);
__UBLK_BPF_AT(ublk_bpf_last_refused, len, 16);
__UBLK_BPF_AT(ublk_bpf_last_refused, value, 20);
__UBLK_BPF_AT(ublk_bpf_last_refused, off, 24);
__UBLK_BPF_AT(ublk_bpf_last_refused, addr, 32);
__UBLK_BPF_ASSERT(sizeof(struct ublk_bpf_info) == 504);
__UBLK_BPF_AT(ublk_bpf_info, prog_id, 0);
__UBLK_BPF_AT(ublk_bpf_info, attach_flags, 4);
__UBLK_BPF_AT(ublk_bpf_info, nr_files, 8);
__UBLK_BPF_AT(ublk_bpf_info, pdu_bytes, 12);
__UBLK_BPF_AT(ublk_bpf_info, nr_attach, 16);
__UBLK_BPF_AT(ublk_bpf_info, redirected, 24);
__UBLK_BPF_AT(ublk_bpf_info, passed, 32);
__UBLK_BPF_AT(ublk_bpf_info, dropped, 40);
__UBLK_BPF_AT(ublk_bpf_info, aborted, 48);
__UBLK_BPF_AT(ublk_bpf_info, failed, 56);
__UBLK_BPF_AT(ublk_bpf_info, sqes, 64);
__UBLK_BPF_AT(ublk_bpf_info, deferred, 72);
__UBLK_BPF_AT(ublk_bpf_info, refused, 80);
__UBLK_BPF_AT(ublk_bpf_info, last, 400);
__UBLK_BPF_AT(ublk_bpf_info, nr_retiring, 440);
__UBLK_BPF_AT(ublk_bpf_info, sync_error, 444);
__UBLK_BPF_AT(ublk_bpf_info, sync_failed, 448);
__UBLK_BPF_AT(ublk_bpf_info, version, 456);
__UBLK_BPF_AT(ublk_bpf_info, complete_id, 460);
__UBLK_BPF_AT(ublk_bpf_info, bios, 464);
__UBLK_BPF_AT(ublk_bpf_info, rounds, 472);
__UBLK_BPF_AT(ublk_bpf_info, passed_late, 480);
__UBLK_BPF_AT(ublk_bpf_info, errors_passed, 488);
__UBLK_BPF_AT(ublk_bpf_info, retries, 496);

#undef __UBLK_BPF_AT
#undef __UBLK_BPF_ASSERT

#endif
