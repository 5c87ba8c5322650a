// SPDX-License-Identifier: MIT

#include "cli/command_line.h"
#include "cli/with_device.h"

namespace ublk::cli {

void define_detach(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.footer(
      "I/O goes on through the device's server; none is lost.\n"
      "Example:\n"
      "  ublk-bpf detach --dev 0");
}

int run_detach(const Options& options) {
  return with_device(options, detach_program);
}

}  // namespace ublk::cli
