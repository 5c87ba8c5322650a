// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "device/serve.h"

namespace ublk::cli {

// A path as the server can use it, which has another working directory. ""
// stays.
std::string for_server(const std::string& path);

// What is printed of a device that is live.
enum class Printing : uint8_t { device, none };

// Runs `serve` in a process of its own, or with --foreground in this one, and
// prints the device once it is live. Gives the exit status: in the background
// as soon as it is live or has failed, in the foreground when it has ended.
int run_server(const Options& options, bool foreground,
               const std::function<Result<void>(const ServeHooks&)>& serve,
               Printing printing = Printing::device);

// The same in the background, without a word except for warnings: the numbers
// of the devices once they are live.
Result<std::vector<uint32_t>> start_server(
    const Options& options,
    const std::function<Result<void>(const ServeHooks&)>& serve);

}  // namespace ublk::cli
