// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "device/device.h"
#include "device/new_top.h"
#include "server/data_path.h"
#include "server/target.h"
#include "sys/error.h"

namespace ublk {

struct AddRequest {
  TargetSpec target;
  std::string name{};     // see sys/device_name.h; "": none
  uint32_t dev_id = ~0U;  // ~0: the first that is free
  uint16_t nr_hw_queues = 1;
  uint16_t queue_depth = 128;
  uint64_t recovery_flags = 0;  // UBLK_F_USER_RECOVERY*
  std::string data_path{kAutoDataPath};
  bool batch = false;     // UBLK_F_BATCH_IO
  bool bpf = true;        // UBLK_F_BPF where the driver offers it
  bool part_scan = true;  // false: UBLK_F_NO_AUTO_PART_SCAN
  bool shared = false;    // the file's bytes may be another device's too
  // UBLK_F_UNPRIVILEGED_DEV: by a user who is not root. Copies, cannot be
  // recovered, and has no program.
  bool unprivileged = false;
};

struct ServeHooks {
  // `keep` is what whoever has asked for the devices listens to: it must not
  // end while a command on them is under way.
  ControlOptions control{};
  // All devices are live. False: nobody has heard it, whoever has asked for
  // them is gone; then new ones go too.
  std::function<bool(const std::vector<Device>& devices)> live;
  // Something went wrong later, of which nobody else would hear. Any thread
  // may say so, also while live() is told.
  std::function<void(const Error&)> trouble;
  // What was asked for failed, but the devices are served as they were before;
  // in place of live().
  std::function<void(const Error&, const std::vector<Device>& devices)>
      refused{};
};

// Adds devices and serves them in this process until the last one has ended: by
// somebody else, or after SIGTERM or SIGINT, as serve_to_the_end() has it.
// These signals must be blocked in the whole process. An error before they are
// live means that no device is left behind.
Result<void> serve_new(const std::vector<AddRequest>& requests,
                       const ServeHooks& hooks);

enum class Succession {
  of_a_dead_one,  // EBUSY if the device is served
  of_a_live_one,  // or dead: takes the device from its server, no I/O fails
};
// Of a clone: its new server brings what is below its layer up to it.
struct FlattenRequest {
  uint64_t bytes_per_second = 0;  // at most; 0: no limit
  bool stops = false;             // it does not any more
};
struct RecoverRequest {
  uint32_t dev_id = 0;
  Succession how = Succession::of_a_dead_one;
  // All that its server has, or had when it ended, get one new server.
  bool with_others = false;
  bool changed_file = false;  // which need not be what they were added with
  // Of a clone: it gets one with its new server.
  std::optional<NewTopRequest> new_top{};
  std::optional<FlattenRequest> flatten{};
  // Of a clone: how many bytes its disk has from then on, not less than before.
  std::optional<uint64_t> size_bytes{};
};
// Serves devices from their states, in place of their server. An error before
// anything is done to them changes nothing; after a later one they all wait for
// the next attempt. ESTALE: a file is another one by now.
Result<void> serve_recovered(const RecoverRequest& request,
                             const ServeHooks& hooks);

}  // namespace ublk
