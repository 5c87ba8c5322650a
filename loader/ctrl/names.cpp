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

}  // namespace

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
