// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/command_line.h"

namespace ublk::cli {

// The whole command line, as defined by the commands: what parses it, helps
// with it and describes it is made of this. Parsing writes to `options`, which
// outlives it.
std::unique_ptr<CLI::App> make_app(Options& options);

}  // namespace ublk::cli
