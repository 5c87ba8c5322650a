// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>

#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kNextGlance = 250ms;

}  // namespace

void define_list(Arguments& command, Options& options) {
  command.device(options.dev_id, false);
  command.flag("-v,--verbose", options.verbose,
               "several lines for each: its server, and what its program has "
               "counted");
  command.text("--format", options.format, "ublk-bpf|kublk|ublksrv",
               "lay the text out as this tool does; kublk and ublksrv are for "
               "scripts that count the fields of theirs");
  command.footer(
      "Waits for no device: of one that another command holds, it shows what "
      "can be known, and says so.\n"
      "Examples:\n"
      "  ublk-bpf list\n"
      "  ublk-bpf list -v\n"
      "  ublk-bpf list -n 0 --json\n"
      "  ublk-bpf list -n 0 --format ublksrv");
}

int run_list(const Options& options) {
  const auto text_of = find_device_text(options.format);
  if (!text_of) return report(text_of.error(), options.json, kUsedWrongly);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  const bool one = options.dev_id >= 0;
  const auto ids =
      one ? std::vector{static_cast<uint32_t>(options.dev_id)} : device_ids();
  std::vector<Device> devices;
  Servers servers;
  control->only_glance();
  for (const uint32_t dev_id : ids) {
    auto device = describe(*control, states, dev_id, servers);
    // It may have been deleted since it was seen, or be another user's.
    if (!device && !one &&
        (device.error().code() == ENODEV || device.error().code() == EACCES ||
         device.error().code() == EPERM))
      continue;
    if (!device) return report(device.error(), options.json);
    if (device->state_error) warn(*device->state_error);
    if (device->stuck) {
      warn(*device->stuck);
      control->set_deadline(kNextGlance);
    }
    devices.push_back(std::move(*device));
  }
  const bool table = options.format == kOwnFormat && !options.verbose;
  if (options.json) {
    say(devices_json(devices));
  } else if (table) {
    if (!devices.empty()) say(devices_table(devices));
  } else {
    for (const Device& device : devices) say((*text_of)(device));
  }
  return kDone;
}

}  // namespace ublk::cli
