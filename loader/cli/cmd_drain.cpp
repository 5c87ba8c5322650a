// SPDX-License-Identifier: MIT

#include "cli/command_line.h"
#include "cli/with_device.h"

namespace ublk::cli {

void define_drain(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.footer(
      "Returns when all I/O is done that the attached program planned before: "
      "what it does from now on sees what was changed in its maps before. The "
      "program stays attached and serves on; nothing is synced.\n"
      "Example:\n"
      "  ublk-bpf drain -n 0");
}

int run_drain(const Options& options) {
  return with_device(options, drain_program);
}

}  // namespace ublk::cli
