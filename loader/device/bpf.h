// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ctrl/control.h"
#include "device/state.h"
#include "prog/maps.h"
#include "sys/error.h"

namespace ublk {

struct AttachRequest {
  uint32_t dev_id = 0;
  std::string object;
  std::string program;             // "": the only one
  std::vector<std::string> files;  // none: those of the device's target
  std::vector<std::pair<std::string, std::string>> knobs;
  uint32_t flags = 0;  // UBLK_BPF_ATTACH_F_*
  bool buffered = false;
  std::string pin_dir;     // in a BPF file system; "": maps are not pinned
  bool keep_maps = false;  // those of the program that is replaced
  // The target's file may be another one than the device was added with.
  bool changed_file = false;
  bool shared = false;  // the files may be another device's too
};

// Loads a program and attaches it. The attachment outlives this process and
// holds its files. Whatever is wrong is found before anything changes. Returns
// how long the kernel took for the attachment alone, without the load.
Result<std::chrono::nanoseconds> attach_program(Control& control,
                                                const StateStore& states,
                                                AttachRequest request);

// Takes the program off; waits until no request uses it. I/O goes on through
// the server.
Result<void> detach_program(Control& control, const StateStore& states,
                            uint32_t dev_id);

// Returns when all I/O that the program planned before is done; it stays
// attached and serves on.
Result<void> drain_program(Control& control, const StateStore& states,
                           uint32_t dev_id);

// That the attached program uses, by id. EPERM: takes CAP_SYS_ADMIN.
Result<std::vector<MapInfo>> maps_of_attached(const ublk_bpf_info& info);

// UBLK_BPF_VERSION of the kernel that has told this.
uint32_t bpf_version(const ublk_bpf_info& info);

// UBLK_BPF_ATTACH_F_* that stay, in lower case and without their prefix.
std::vector<std::string> attach_flag_names(uint32_t flags);

}  // namespace ublk
