// SPDX-License-Identifier: MIT
#include <array>

#include "ctrl/control.h"

namespace ublk {

namespace {

// Indexed by enum ublk_bpf_reason.
constexpr std::array<std::string_view, UBLK_BPF_NR_REFUSED> kReasons = {
    "none",   "size", "full",      "flags",       "reserved",
    "opcode", "fd",   "direction", "file_mode",   "data",
    "len",    "off",  "rw_flags",  "fsync_flags", "mode",
    "empty",  "plan", "uncovered", "no_fsync",    "verdict",
};
static_assert(kReasons[UBLK_BPF_REFUSED_FD] == "fd");
static_assert(kReasons[UBLK_BPF_REFUSED_LEN] == "len");
static_assert(kReasons[UBLK_BPF_REFUSED_EMPTY] == "empty");
static_assert(kReasons[UBLK_BPF_REFUSED_VERDICT] == "verdict");

// Indexed by the number of the bit.
constexpr std::array<std::string_view, 21> kFeatures = {
    "support_zero_copy",
    "uring_cmd_comp_in_task",
    "need_get_data",
    "user_recovery",
    "user_recovery_reissue",
    "unprivileged_dev",
    "cmd_ioctl_encode",
    "user_copy",
    "zoned",
    "user_recovery_fail_io",
    "update_size",
    "auto_buf_reg",
    "quiesce",
    "per_io_daemon",
    "buf_reg_off_daemon",
    "batch_io",
    "integrity",
    "safe_stop_dev",
    "no_auto_part_scan",
    "shmem_zc",
    "io_desc_size",
};
static_assert(1ULL << 11 == UBLK_F_AUTO_BUF_REG);
static_assert(1ULL << 15 == UBLK_F_BATCH_IO);
static_assert(1ULL << (kFeatures.size() - 1) == UBLK_F_IO_DESC_SIZE);

}  // namespace

std::vector<std::string> feature_names(uint64_t flags) {
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < 64; bit++) {
    if (!(flags >> bit & 1)) continue;
    names.push_back(1ULL << bit == UBLK_F_BPF ? "bpf"
                    : bit < kFeatures.size()  ? std::string(kFeatures[bit])
                                              : fmt("bit {}", bit));
  }
  return names;
}

std::string device_name(uint32_t dev_id) {
  return dev_id == ~0U ? "new device" : fmt("ublkb{}", dev_id);
}

std::string_view state_name(uint16_t state) {
  switch (state) {
    case UBLK_S_DEV_LIVE:
      return "live";
    case UBLK_S_DEV_QUIESCED:
      return "quiesced";
    case UBLK_S_DEV_FAIL_IO:
      return "fail_io";
    default:
      return "dead";
  }
}

std::string_view recovery_name(uint64_t flags) {
  if (!(flags & UBLK_F_USER_RECOVERY)) return "none";
  if (flags & UBLK_F_USER_RECOVERY_REISSUE) return "reissue";
  if (flags & UBLK_F_USER_RECOVERY_FAIL_IO) return "fail_io";
  return "requeue";
}

std::string reason_name(uint32_t reason) {
  return reason < kReasons.size() ? std::string(kReasons[reason])
                                  : fmt("{}", reason);
}

std::string op_name(uint8_t op) {
  switch (op) {
    case UBLK_IO_OP_READ:
      return "read";
    case UBLK_IO_OP_WRITE:
      return "write";
    case UBLK_IO_OP_FLUSH:
      return "flush";
    case UBLK_IO_OP_DISCARD:
      return "discard";
    case UBLK_IO_OP_WRITE_ZEROES:
      return "write_zeroes";
    default:
      return fmt("{}", op);
  }
}

}  // namespace ublk
