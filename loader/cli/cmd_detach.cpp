// SPDX-License-Identifier: MIT

#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

void define_detach(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.footer(
      "I/O goes on through the device's server; none is lost.\n"
      "Example:\n"
      "  ublk-bpf detach --dev 0");
}

int run_detach(const Options& options) {
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  auto control = Control::open();
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  if (auto done = detach_program(*control, states, dev_id); !done)
    return report(done.error(), options.json);
  if (!options.json) return kDone;
  auto device = describe(*control, states, dev_id);
  if (!device) return report(device.error(), options.json);
  say(device_json(*device));
  return kDone;
}

}  // namespace ublk::cli
