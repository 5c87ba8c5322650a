// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "device/device.h"
#include "server/data_path.h"
#include "server/target.h"
#include "sys/error.h"

namespace ublk {

struct AddRequest {
  TargetSpec target;
  uint32_t dev_id = ~0U;  // ~0: the first that is free
  uint16_t nr_hw_queues = 1;
  uint16_t queue_depth = 128;
  uint64_t recovery_flags = 0;  // UBLK_F_USER_RECOVERY*
  std::string data_path{kAutoDataPath};
  bool batch = false;     // UBLK_F_BATCH_IO
  bool bpf = true;        // UBLK_F_BPF where the driver offers it
  bool part_scan = true;  // false: UBLK_F_NO_AUTO_PART_SCAN
  // UBLK_F_UNPRIVILEGED_DEV: by a user who is not root. Copies, cannot be
  // recovered, and has no program.
  bool unprivileged = false;
};

struct ServeHooks {
  // All devices are live. False: nobody has heard it, whoever has asked for
  // them is gone; then new ones go too.
  std::function<bool(const std::vector<Device>& devices)> live;
  // Something went wrong later, of which nobody else would hear.
  std::function<void(const Error&)> trouble;
};

// Adds devices and serves them in this process until the last one is stopped:
// by SIGTERM or SIGINT, then the devices are deleted too, or by somebody else.
// These signals must be blocked in the whole process. An error before they are
// live means that no device is left behind.
Result<void> serve_new(const std::vector<AddRequest>& requests,
                       const ServeHooks& hooks);

enum class Succession {
  of_a_dead_one,  // EBUSY if the device is served
  of_a_live_one,  // or dead: takes the device from its server, no I/O fails
};
// Serves a device from its state, in place of its server.
Result<void> serve_recovered(uint32_t dev_id, Succession how,
                             const ServeHooks& hooks);

}  // namespace ublk
