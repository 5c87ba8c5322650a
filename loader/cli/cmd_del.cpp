// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/command_line.h"
#include "cli/output.h"
#include "device/lifecycle.h"

namespace ublk::cli {

void define_del(Arguments& command, Options& options) {
  command.device(options.dev_id, false);
  command.flag("-a,--all", options.all, "all ublk devices");
  command.flag("--async", options.asynchronous,
               "do not wait until the driver has deleted it");
  command.footer(
      "Without --async waits until the device and its server are gone. A "
      "server that does not "
      "answer is killed.\n"
      "Examples:\n"
      "  ublk-bpf del -n 0\n"
      "  ublk-bpf del -a");
}

int run_del(const Options& options) {
  if (options.all == (options.dev_id >= 0))
    return report(Error::plain(EINVAL, "del: needs either -n N or -a"),
                  options.json, kUsedWrongly);
  auto control = Control::open();
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  const auto ids = options.all
                       ? device_ids()
                       : std::vector{static_cast<uint32_t>(options.dev_id)};
  std::vector<uint32_t> deleted;
  for (const uint32_t dev_id : ids) {
    auto done = remove_device(
        *control, states, dev_id,
        options.asynchronous ? Removal::asynchronous : Removal::waits);
    // Of all, one may go by itself meanwhile.
    if (!done && options.all && done.error().code() == ENODEV) continue;
    if (!done) return report(done.error(), options.json);
    deleted.push_back(dev_id);
  }
  if (options.json) say(deleted_json(deleted));
  return kDone;
}

}  // namespace ublk::cli
