// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/command_line.h"
#include "cli/ending_options.h"
#include "cli/output.h"
#include "cli/with_device.h"
#include "device/lifecycle.h"

namespace ublk::cli {

void define_stop(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.flag("--safe", options.safe,
               "only if the driver itself can tell that nobody has it");
  define_ending(command, options);
  command.footer(
      "Removes /dev/ublkbN when I/O in flight is done. The device itself "
      "stays, "
      "dead, until del or gc. Refuses as del does if somebody has the block "
      "device.\n"
      "Examples:\n"
      "  ublk-bpf stop -n 0\n"
      "  ublk-bpf stop -n 0 --force");
}

int run_stop(const Options& options) {
  if (options.safe && options.force)
    return report(Error::plain(EINVAL,
                               "stop: --safe and --force exclude each "
                               "other"),
                  options.json, kUsedWrongly);
  return with_device(options, [&](Control& control, const StateStore& states,
                                  uint32_t dev_id) {
    return stop_device(control, states, dev_id, options.safe,
                       ending_options(options));
  });
}

}  // namespace ublk::cli
