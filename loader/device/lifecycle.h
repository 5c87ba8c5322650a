// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ctrl/control.h"
#include "device/device.h"
#include "device/state.h"
#include "sys/error.h"

namespace ublk {

// How long a server may complete nothing while its device is to be stopped.
// After that it is killed if it has no other device.
inline constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(5);

struct EndOptions {
  // Even if somebody has the block device; and a server that completes nothing
  // is killed together with its other devices.
  bool force = false;
  std::chrono::milliseconds patience = kPatience;
  // Who else is about to end, before it does.
  std::function<void(const Error&)> warn{};
};

// Removes /dev/ublkbN, when I/O in flight is done, and ends what serves it. The
// device itself stays, dead, until it is deleted. EBUSY: somebody has it, or
// its server completes nothing and has other devices. `driver_checks`: only if
// the driver itself can tell that nobody has it, else EOPNOTSUPP.
Result<void> stop_device(Control& control, const StateStore& states,
                         uint32_t dev_id, bool driver_checks,
                         const EndOptions& options = {});

enum class Removal {
  waits,  // until the device, and its server if it has no other, are gone
  asynchronous,  // the driver deletes it when its server has let go of it
};
// Stops and deletes a device, whoever serves it. EBUSY as of stop_device().
Result<void> remove_device(Control& control, const StateStore& states,
                           uint32_t dev_id, Removal how = Removal::waits,
                           const EndOptions& options = {});

// Of a device that has gone, whichever instance it was: its state, and what its
// program had pinned.
Result<void> forget(const StateStore& states, uint32_t dev_id);

// Several, of which each succeeds or fails by itself; their servers are waited
// for together.
struct Removed {
  std::vector<uint32_t> deleted;
  std::vector<std::pair<uint32_t, Error>> failed;
};
Removed remove_devices(Control& control, const StateStore& states,
                       const std::vector<uint32_t>& dev_ids, Removal how,
                       const EndOptions& options);

// While a quiesced device is still its server's. The driver tells each queue by
// the commands that it has of it at that moment. A queue that has a request on
// every tag, or that is giving one back just then, and so has a command there
// that nobody has cancelled, has to be told again.
class QuiesceAgain {
 public:
  QuiesceAgain(Control& control, const ublksrv_ctrl_dev_info& before)
      : control_(control), before_(before) {}
  // Quiesces it once more if the last time is a while ago.
  Result<void> tick();

 private:
  Control& control_;
  ublksrv_ctrl_dev_info before_;
  std::chrono::steady_clock::time_point last_ =
      std::chrono::steady_clock::now();
};

// Takes a device from its server, which finishes what it has in hand and ends;
// I/O waits (with -e: fails) until recover. A program that is attached goes on.
// Nothing to do for a device that has no server already. Returns when the
// server has let go of it, and has ended if it has no other.
// `may_fail_io`: even if the driver fails I/O meanwhile that should wait.
Result<void> quiesce_device(Control& control, uint32_t dev_id,
                            bool may_fail_io = false);
// EOPNOTSUPP: it cannot be.
Result<void> check_quiesce(const ublksrv_ctrl_dev_info& info,
                           bool may_fail_io = false);

// Gives the nodes of an unprivileged device to the user who has added it, as
// udev is to do. EINVAL: it is a privileged one.
Result<void> give_to_owner(Control& control, uint32_t dev_id);

struct NewSize {
  uint64_t bytes = 0;         // 0: that of the file that the target serves
  bool shrink = false;        // may be less than it is
  bool changed_file = false;  // which is not the one that it was added with
};
// Of a live or quiesced device, while it is in use. Returns what it is now.
Result<uint64_t> resize_device(Control& control, const StateStore& states,
                               uint32_t dev_id, const NewSize& size);

// Moves the thread that serves a queue; the next server's, too.
Result<void> set_queue_affinity(Control& control, const StateStore& states,
                                uint32_t dev_id, uint16_t q_id,
                                const std::vector<uint16_t>& cpus);

}  // namespace ublk
