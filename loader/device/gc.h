// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "device/state.h"
#include "sys/error.h"

namespace ublk {

struct GcOptions {
  bool waiting = false;  // also devices that wait for recovery
  bool dry_run = false;  // only say what would be done
};

// What was found without its other half, and what was done about it.
struct Orphan {
  enum class Kind { device, state, temporary };
  Kind kind = Kind::device;
  uint32_t dev_id = 0;
  std::string file{};  // of a temporary
  bool cleared = false;
  std::string why{};  // it is one, and if it is kept why
};

// Looks for devices that nobody serves, states of devices that are not there,
// and what interrupted writers of states have left, and clears them. What is
// being added, recovered or served is left alone; other tools' devices too,
// as long as a process has them open. EBUSY: somebody is adding for too long.
Result<std::vector<Orphan>> collect_garbage(Control& control,
                                            const StateStore& states,
                                            const GcOptions& options);

}  // namespace ublk
