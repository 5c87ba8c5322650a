// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "sys/error.h"

namespace ublk {

// Who has a block device or a partition of it, in words.
struct BlockUsers {
  // What stays until somebody ends it: "mounted at /mnt", in any process's
  // mounts, "held by dm-0", "used as swap", "behind loop0", "a file of the
  // program of ublkb5".
  std::vector<std::string> lasting;
  // "open in fsck (4711)", which may only have a look.
  std::vector<std::string> openers;

  bool empty() const { return lasting.empty() && openers.empty(); }
  std::string text() const;
};
BlockUsers users_of(uint32_t dev_id);

// How long somebody may have the block device open who only has a look, as udev
// and blkid do: nobody can tell them from others, except by their leaving.
inline constexpr std::chrono::milliseconds kLook{2'000};

// Whether somebody has claimed the block device (a mount, a device mapper,
// swap), of which he alone can know: opened exclusively, below `dev_dir`. By a
// process of its own: opening may wait for I/O. Then it counts as claimed.
bool is_claimed(int dev_dir, uint32_t dev_id);

// Whether another process has it or a partition of it open, for one that has
// left /dev and /proc and kept these descriptors of them.
bool is_open_below(int dev_dir, int proc_dir, uint32_t dev_id);

// EBUSY, naming who has it. `hint` is what can be done.
Error in_use(uint32_t dev_id, const BlockUsers& users, std::string hint);

// Attaches a program. Before a device can need stable pages, as some files of
// programs do, nobody may have its block device open: who only has a look is
// given time to let go of it, unless it is `in_use` otherwise. ETXTBSY: in
// vain.
Result<void> attach_if_unused(Control& control, uint32_t dev_id,
                              const ublk_bpf_attach& attach,
                              const std::function<bool()>& in_use = {});

// Stops a device unless somebody has it: EBUSY, naming him. Whoever only has it
// open is given time to let go of it. Where the driver cannot tell
// (UBLK_F_SAFE_STOP_DEV), somebody may open it between the look and the stop.
Result<void> stop_if_unused(Control& control, const ublksrv_ctrl_dev_info& info,
                            const ControlTick& tick, const std::string& hint);

}  // namespace ublk
