// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/output.h"
#include "device/gc.h"

namespace ublk::cli {

void define_gc(Arguments& command, Options& options) {
  command.flag("-a,--all", options.all,
               "also devices that wait for their recovery");
  command.flag("--dry-run", options.dry_run, "only say what would be done");
  command.footer(
      "Clears what has lost its other half: dead devices that nobody serves, "
      "files in /run/ublk-bpf of devices that are gone. Devices that can be "
      "recovered are named, and kept without -a.\n"
      "Example:\n"
      "  ublk-bpf gc");
}

int run_gc(const Options& options) {
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const auto orphans =
      collect_garbage(*control, StateStore::open_existing(),
                      {.waiting = options.all, .dry_run = options.dry_run});
  if (!orphans) return report(orphans.error(), options.json);
  if (options.json) {
    say(orphans_json(*orphans));
  } else {
    for (const Orphan& orphan : *orphans)
      say(orphan_text(orphan, options.dry_run));
  }
  return kDone;
}

}  // namespace ublk::cli
