// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/with_device.h"
#include "device/lifecycle.h"

namespace ublk::cli {

void define_quiesce(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.flag("--fail-io", options.fail_io,
               "even if the driver fails I/O that should wait: of a device "
               "that is served in batches");
  command.footer(
      "Takes the device from its server, which finishes what it has begun and "
      "ends. I/O waits for recover (with -e it fails); a program that is "
      "attached goes on.\n"
      "Example:\n"
      "  ublk-bpf quiesce -n 0");
}

int run_quiesce(const Options& options) {
  return with_device(options,
                     [&](Control& control, const StateStore&, uint32_t dev_id) {
                       return quiesce_device(control, dev_id, options.fail_io);
                     });
}

}  // namespace ublk::cli
