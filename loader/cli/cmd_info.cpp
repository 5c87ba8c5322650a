// SPDX-License-Identifier: MIT
#include <algorithm>

#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

void define_info(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.footer(
      "What list shows, and the driver's flags, parameters and queues.\n"
      "Example:\n"
      "  ublk-bpf info -n 0");
}

int run_info(const Options& options) {
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  control->only_glance();
  const auto info = describe_closely(*control, StateStore::open_existing(),
                                     static_cast<uint32_t>(options.dev_id));
  if (!info) return report(info.error(), options.json);
  if (info->device.stuck) warn(*info->device.stuck);
  say(options.json ? info_json(*info) : info_text(*info));
  return kDone;
}

}  // namespace ublk::cli
