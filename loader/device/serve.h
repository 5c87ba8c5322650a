// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

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
  bool batch = false;           // UBLK_F_BATCH_IO
  bool bpf = true;              // UBLK_F_BPF where the driver offers it
  bool part_scan = true;        // false: UBLK_F_NO_AUTO_PART_SCAN
};

struct ServeHooks {
  // The device is live.
  std::function<void(const Device& device)> live;
  // Something went wrong later, of which nobody else would hear.
  std::function<void(const Error&)> trouble;
};

// Adds a device and serves it in this process until it is stopped: by SIGTERM
// or SIGINT, then the device is deleted too, or by somebody else. These
// signals must be blocked in the whole process. An error means that no device
// is left behind.
Result<void> serve_new(const AddRequest& request, const ServeHooks& hooks);

// Serves a device whose server is gone, from its state.
Result<void> serve_recovered(uint32_t dev_id, const ServeHooks& hooks);

}  // namespace ublk
