// SPDX-License-Identifier: MIT
#pragma once

#include <functional>

#include "cli/command_line.h"
#include "ctrl/control.h"
#include "device/state.h"

namespace ublk::cli {

// Does something to the device of -n; with --json prints what it is then. Gives
// the exit status.
int with_device(
    const Options& options,
    const std::function<Result<void>(Control& control, const StateStore& states,
                                     uint32_t dev_id)>& what);

}  // namespace ublk::cli
