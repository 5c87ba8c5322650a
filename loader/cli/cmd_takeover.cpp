// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/daemon.h"

namespace ublk::cli {

void define_takeover(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.flag("--with-others", options.with_others,
               "all devices that its server has or had: they get one new "
               "server");
  command.changed_file(options.changed_file);
  command.flag("--foreground", options.foreground,
               "serve in this process, until SIGTERM or SIGINT");
  command.footer(
      "A new server, of this version, takes a live device over from the one "
      "that it has, which ends. I/O waits for a moment, none fails. For "
      "devices that were added with -r or -i.\n"
      "Examples:\n"
      "  ublk-bpf takeover -n 0\n"
      "  ublk-bpf takeover -n 0 --with-others");
}

int run_takeover(const Options& options) {
  return run_server(options, options.foreground, [&](const ServeHooks& hooks) {
    return serve_recovered({.dev_id = static_cast<uint32_t>(options.dev_id),
                            .how = Succession::of_a_live_one,
                            .with_others = options.with_others,
                            .changed_file = options.changed_file},
                           hooks);
  });
}

}  // namespace ublk::cli
