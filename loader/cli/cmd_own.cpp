// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/with_device.h"
#include "device/lifecycle.h"

namespace ublk::cli {

void define_own(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.footer(
      "For udev: examples/60-ublk-bpf-users.rules runs it when a device "
      "appears that was added with --unprivileged.\n"
      "Example:\n"
      "  ublk-bpf own -n 0");
}

int run_own(const Options& options) {
  return with_device(options,
                     [](Control& control, const StateStore&, uint32_t dev_id) {
                       return give_to_owner(control, dev_id);
                     });
}

}  // namespace ublk::cli
