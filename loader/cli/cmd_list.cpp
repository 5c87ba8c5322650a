// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

void define_list(Arguments& command, Options& options) {
  command.device(options.dev_id, false);
  command.text("--format", options.format, "FORMAT",
               "lay the text out as this tool does: ublk-bpf, or for scripts "
               "that count the fields of theirs kublk, ublksrv");
  command.footer(
      "Examples:\n"
      "  ublk-bpf list\n"
      "  ublk-bpf list -n 0 --json\n"
      "  ublk-bpf list -n 0 --format ublksrv");
}

int run_list(const Options& options) {
  const auto text_of = find_device_text(options.format);
  if (!text_of) return report(text_of.error(), options.json, kUsedWrongly);
  auto control = Control::open();
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  const bool one = options.dev_id >= 0;
  const auto ids =
      one ? std::vector{static_cast<uint32_t>(options.dev_id)} : device_ids();
  std::vector<Device> devices;
  for (const uint32_t dev_id : ids) {
    auto device = describe(*control, states, dev_id);
    // It may have been deleted since it was seen, or be another user's.
    if (!device && !one &&
        (device.error().code() == ENODEV || device.error().code() == EACCES ||
         device.error().code() == EPERM))
      continue;
    if (!device) return report(device.error(), options.json);
    if (device->state_error) warn(*device->state_error);
    devices.push_back(std::move(*device));
  }
  if (options.json) {
    say(devices_json(devices));
  } else {
    for (const Device& device : devices) say((*text_of)(device));
  }
  return kDone;
}

}  // namespace ublk::cli
