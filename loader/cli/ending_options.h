// SPDX-License-Identifier: MIT
#pragma once

#include "cli/command_line.h"
#include "device/lifecycle.h"

namespace ublk::cli {

// What del and stop have in common: --force and --patience.
void define_ending(Arguments& command, Options& options);
EndOptions ending_options(const Options& options);

}  // namespace ublk::cli
