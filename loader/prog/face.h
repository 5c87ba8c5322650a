// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string_view>

#include "sys/error.h"

struct btf;

namespace ublk {

// How this kernel takes ublk programs.
enum class Face {
  none,          // not at all
  program_type,  // BPF_PROG_TYPE_UBLK, of a kernel that carries the series
  struct_ops,    // struct ublk_bpf_sqe_ops, of the replacement ublk_drv module
};

struct FaceInfo {
  Face face = Face::none;
  uint32_t prog_type = 0;  // value of BPF_PROG_TYPE_UBLK
  bool has_kfunc = false;  // bpf_ublk_queue_sqe()
  bool has_btf = false;    // of vmlinux; without it nothing can be told
  // UBLK_BPF_VERSION of the kernel's contract, as far as types tell; 0: unknown
  uint32_t version = 0;
};

// From the kernel's own BTF, never from its version. Other trees of ublk have
// structs and flags of similar names: what makes it ours is the kfunc, with
// these arguments.
FaceInfo detect_face();

// The same, of given types; either may be null.
FaceInfo face_of(const btf* vmlinux, const btf* driver);

// "program_type", "struct_ops", "none".
std::string_view face_name(Face face);

}  // namespace ublk
