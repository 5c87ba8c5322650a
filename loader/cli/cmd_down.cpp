// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/boot_commands.h"
#include "cli/config.h"
#include "cli/ending_options.h"
#include "cli/output.h"
#include "device/find.h"
#include "sys/device_name.h"

namespace ublk::cli {

void define_down(Arguments& command, Options& options) {
  command.texts("name", options.boot.names, "NAME", "which devices");
  command.flag("--all", options.all,
               "all that have a configuration, the last one first");
  command.text("--config-dir", options.boot.config_dir, "DIR",
               "where NAME.json is");
  define_ending(command, options);
  command.footer(
      "Deletes devices by their names, as del does. One that is not there is "
      "down already. A device that somebody has is kept and named, and the "
      "others go.\n"
      "Examples:\n"
      "  ublk-bpf down vm1\n"
      "  ublk-bpf down --all");
}

int run_down(const Options& options) {
  std::vector<std::string> names = options.boot.names;
  if (options.all != names.empty())
    return report(Error::plain(EINVAL, "down: needs either names or --all"),
                  options.json, kUsedWrongly);
  for (const std::string& name : names)
    if (auto good = check_device_name(name); !good)
      return report(good.error(), options.json, kUsedWrongly);
  if (options.all) {
    auto all = config_names(options.boot.config_dir);
    if (!all) return report(all.error(), options.json);
    names.assign(all->rbegin(), all->rend());
  }
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  Removed removed;
  for (const std::string& name : names) {
    const auto dev_id = find_name(states, name);
    if (!dev_id) continue;
    auto one = remove_devices(*control, states, {*dev_id}, Removal::waits,
                              ending_options(options));
    removed.deleted.insert(removed.deleted.end(), one.deleted.begin(),
                           one.deleted.end());
    for (auto& failed : one.failed) removed.failed.push_back(std::move(failed));
  }
  if (options.json) say(removed_json(removed));
  for (const auto& [dev_id, error] : removed.failed) report(error, false);
  return removed.failed.empty() ? kDone : kFailed;
}

}  // namespace ublk::cli
