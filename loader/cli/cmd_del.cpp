// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/command_line.h"
#include "cli/ending_options.h"
#include "cli/output.h"
#include "device/lifecycle.h"
#include "device/server_process.h"

namespace ublk::cli {

void define_del(Arguments& command, Options& options) {
  command.device(options.dev_id, false);
  command.flag("-a,--all", options.all, "all ublk devices");
  command.flag("--with-others", options.with_others,
               "with -n: and all other devices of its server");
  command.flag("--async", options.asynchronous,
               "do not wait until the driver has deleted it");
  define_ending(command, options);
  command.footer(
      "Refuses, and says who it is, if somebody has the block device: a mount, "
      "a holder such as device mapper, swap, a process that has it open for "
      "more than two seconds. Of all devices, those that nobody has are "
      "deleted.\n"
      "Without --async waits until the device and its server are gone. A "
      "server that completes no request for --patience seconds is killed; one "
      "that has other devices too only with --force, and they are named "
      "before.\n"
      "Examples:\n"
      "  ublk-bpf del -n 0\n"
      "  ublk-bpf del -n 0 --force\n"
      "  ublk-bpf del -a");
}

namespace {

Result<std::vector<uint32_t>> which(Control& control, const Options& options) {
  if (options.all) return device_ids();
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  if (options.with_others) {
    const auto info = TRY(control.info(dev_id));
    if (const auto server = ServerProcess::find(info))
      return std::vector(server->had().begin(), server->had().end());
  }
  return std::vector{dev_id};
}

}  // namespace

int run_del(const Options& options) {
  if (options.all == (options.dev_id >= 0))
    return report(Error::plain(EINVAL, "del: needs either -n N or -a"),
                  options.json, kUsedWrongly);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  const auto ids = which(*control, options);
  if (!ids) return report(ids.error(), options.json);
  Removed removed = remove_devices(
      *control, states, *ids,
      options.asynchronous ? Removal::asynchronous : Removal::waits,
      ending_options(options));
  // Of all, one may go by itself meanwhile.
  const bool several = options.all || options.with_others;
  if (several)
    std::erase_if(removed.failed, [](const auto& failed) {
      return failed.second.code() == ENODEV;
    });
  if (!several && !removed.failed.empty())
    return report(removed.failed.front().second, options.json);
  if (options.json) say(removed_json(removed));
  for (const auto& [dev_id, error] : removed.failed) report(error, false);
  return removed.failed.empty() ? kDone : kFailed;
}

}  // namespace ublk::cli
