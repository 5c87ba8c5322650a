// SPDX-License-Identifier: MIT
//
// <linux/ublk_cmd.h> as the loader needs it. Debian 13's own is that of Linux
// 6.12; what is missing there is here, with the values that
// include/uapi/linux/ublk_cmd.h of Linux 7.3 gives it. Which of it the running
// driver understands is asked at run time. Include this, not the other, which
// must not come before: it would define a ublk_params without `dma`.
#pragma once

#define ublk_params ublk_params_of_the_header
#include <linux/ublk_cmd.h>
#undef ublk_params

#include <cstddef>

// Control commands
#ifndef UBLK_U_CMD_UPDATE_SIZE
#define UBLK_U_CMD_UPDATE_SIZE _IOWR('u', 0x15, struct ublksrv_ctrl_cmd)
#endif
#ifndef UBLK_U_CMD_QUIESCE_DEV
#define UBLK_U_CMD_QUIESCE_DEV _IOWR('u', 0x16, struct ublksrv_ctrl_cmd)
#endif
#ifndef UBLK_U_CMD_TRY_STOP_DEV
#define UBLK_U_CMD_TRY_STOP_DEV _IOWR('u', 0x17, struct ublksrv_ctrl_cmd)
#endif

// I/O commands
#ifndef UBLK_U_IO_REGISTER_IO_BUF
#define UBLK_U_IO_REGISTER_IO_BUF _IOWR('u', 0x23, struct ublksrv_io_cmd)
#define UBLK_U_IO_UNREGISTER_IO_BUF _IOWR('u', 0x24, struct ublksrv_io_cmd)
#endif
#ifndef UBLK_U_IO_PREP_IO_CMDS
#define UBLK_U_IO_PREP_IO_CMDS _IOWR('u', 0x25, struct ublk_batch_io)
#define UBLK_U_IO_COMMIT_IO_CMDS _IOWR('u', 0x26, struct ublk_batch_io)
#define UBLK_U_IO_FETCH_IO_CMDS _IOWR('u', 0x27, struct ublk_batch_io)
#endif

// A device's features
#ifndef UBLK_F_USER_RECOVERY_FAIL_IO
#define UBLK_F_USER_RECOVERY_FAIL_IO (1ULL << 9)
#endif
#ifndef UBLK_F_UPDATE_SIZE
#define UBLK_F_UPDATE_SIZE (1ULL << 10)
#endif
#ifndef UBLK_F_QUIESCE
#define UBLK_F_QUIESCE (1ULL << 12)
#endif
#ifndef UBLK_F_PER_IO_DAEMON
#define UBLK_F_PER_IO_DAEMON (1ULL << 13)
#endif
#ifndef UBLK_F_BUF_REG_OFF_DAEMON
#define UBLK_F_BUF_REG_OFF_DAEMON (1ULL << 14)
#endif
#ifndef UBLK_F_INTEGRITY
#define UBLK_F_INTEGRITY (1ULL << 16)
#endif
#ifndef UBLK_F_SAFE_STOP_DEV
#define UBLK_F_SAFE_STOP_DEV (1ULL << 17)
#endif
#ifndef UBLK_F_NO_AUTO_PART_SCAN
#define UBLK_F_NO_AUTO_PART_SCAN (1ULL << 18)
#endif
#ifndef UBLK_F_SHMEM_ZC
#define UBLK_F_SHMEM_ZC (1ULL << 19)
#endif
#ifndef UBLK_F_IO_DESC_SIZE
#define UBLK_F_IO_DESC_SIZE (1ULL << 20)
#endif

#ifndef UBLK_S_DEV_FAIL_IO
#define UBLK_S_DEV_FAIL_IO 3
#endif

// Automatic registration of a request's buffer
#ifndef UBLK_F_AUTO_BUF_REG
#define UBLK_F_AUTO_BUF_REG (1ULL << 11)
#define UBLK_IO_F_NEED_REG_BUF (1U << 17)
#define UBLK_AUTO_BUF_REG_FALLBACK (1 << 0)

struct ublk_auto_buf_reg {
  __u16 index;
  __u8 flags;
  __u8 reserved0;
  __u32 reserved1;
};

// Its members in a command's `addr`, the first one lowest.
inline __u64 ublk_auto_buf_reg_to_sqe_addr(const ublk_auto_buf_reg* reg) {
  return __u64{reg->index} | __u64{reg->flags} << 16 |
         __u64{reg->reserved0} << 24 | __u64{reg->reserved1} << 32;
}
#endif

// Batches
#ifndef UBLK_F_BATCH_IO
#define UBLK_F_BATCH_IO (1ULL << 15)
#define UBLK_BATCH_F_HAS_ZONE_LBA (1 << 0)
#define UBLK_BATCH_F_HAS_BUF_ADDR (1 << 1)
#define UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK (1 << 2)

struct ublk_elem_header {
  __u16 tag;
  __u16 buf_index;
  __s32 result;
};

struct ublk_batch_io {
  __u16 q_id;
  __u16 flags;
  __u16 nr_elem;
  __u8 elem_bytes;
  __u8 reserved;
  __u64 reserved2;
};
#endif

// A device's parameters. A driver that knows fewer of them takes what it knows.
#ifndef UBLK_PARAM_TYPE_DMA_ALIGN
#define UBLK_PARAM_TYPE_DMA_ALIGN (1 << 4)

struct ublk_param_dma_align {
  __u32 alignment;
  __u8 pad[4];
};
#endif
#ifndef UBLK_PARAM_TYPE_SEGMENT
#define UBLK_PARAM_TYPE_SEGMENT (1 << 5)

struct ublk_param_segment {
  __u64 seg_boundary_mask;
  __u32 max_segment_size;
  __u16 max_segments;
  __u8 pad[2];
};
#endif
#ifndef UBLK_PARAM_TYPE_INTEGRITY
#define UBLK_PARAM_TYPE_INTEGRITY (1 << 6)

struct ublk_param_integrity {
  __u32 flags;
  __u16 max_integrity_segments;
  __u8 interval_exp;
  __u8 metadata_size;
  __u8 pi_offset;
  __u8 csum_type;
  __u8 tag_size;
  __u8 pad[5];
};
#endif

struct ublk_params {
  __u32 len;
  __u32 types;
  ublk_param_basic basic;
  ublk_param_discard discard;
  ublk_param_devt devt;
  ublk_param_zoned zoned;
  ublk_param_dma_align dma;
  ublk_param_segment seg;
  ublk_param_integrity integrity;
};

static_assert(sizeof(ublk_auto_buf_reg) == 8);
static_assert(sizeof(ublk_elem_header) == 8);
static_assert(sizeof(ublk_batch_io) == 16);
static_assert(offsetof(ublk_params, dma) == 108);
static_assert(offsetof(ublk_params, seg) == 120);
static_assert(sizeof(ublk_params) == 152);
