// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/with_device.h"
#include "device/lifecycle.h"

namespace ublk::cli {

void define_stop(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.flag("--safe", options.safe,
               "not if the block device is mounted or open");
  command.footer(
      "Removes /dev/ublkbN when I/O in flight is done. The device itself "
      "stays, "
      "dead, until del or gc.\n"
      "Examples:\n"
      "  ublk-bpf stop -n 0\n"
      "  ublk-bpf stop -n 0 --safe");
}

int run_stop(const Options& options) {
  return with_device(options,
                     [&](Control& control, const StateStore&, uint32_t dev_id) {
                       return stop_device(control, dev_id, options.safe);
                     });
}

}  // namespace ublk::cli
