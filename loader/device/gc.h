// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

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
  enum class Kind {
    device,
    state,
    temporary,
    maps,  // of a clone, which a program has that others have attached
  };
  Kind kind = Kind::device;
  uint32_t dev_id = 0;
  std::string file{};  // of a temporary
  bool cleared = false;
  std::string why{};  // it is one, and if it is kept why
};

// Looks for devices that nobody serves, states and maps of devices that are not
// there, and what interrupted writers of states have left, and clears them.
// What is being added, recovered or served is left alone; other tools' devices
// too, as long as a process has them open. EBUSY: somebody is adding for too
// long.
Result<std::vector<Orphan>> collect_garbage(Control& control,
                                            const StateStore& states,
                                            const GcOptions& options);

// Deletes what a server that was killed while it added devices has left of
// them: those that were not there `before`, that nobody has open, and that
// have a state of this process's or none; and the state that it was writing.
// Gives the devices' numbers.
Result<std::vector<uint32_t>> clear_after(Control& control,
                                          const StateStore& states,
                                          pid_t server,
                                          const std::vector<uint32_t>& before);

}  // namespace ublk
