// SPDX-License-Identifier: MIT

#include "cli/command_line.h"
#include "cli/daemon.h"

namespace ublk::cli {

void define_recover(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  // Other tools want the target again, ours knows it.
  command.ignored("-t,--type", options.ignored);
  command.ignored("-f,--file", options.ignored);
  command.flag("--with-others", options.with_others,
               "all devices that its server has or had: they get one new "
               "server");
  command.changed_file(options.changed_file);
  command.flag("--foreground", options.foreground,
               "serve in this process, until SIGTERM or SIGINT");
  command.footer(
      "For devices that were added with -r, -i or -e and whose server has "
      "died.\n"
      "Examples:\n"
      "  ublk-bpf recover -n 0\n"
      "  ublk-bpf recover -n 0 --with-others");
}

int run_recover(const Options& options) {
  return run_server(options, options.foreground, [&](const ServeHooks& hooks) {
    return serve_recovered({.dev_id = static_cast<uint32_t>(options.dev_id),
                            .how = Succession::of_a_dead_one,
                            .with_others = options.with_others,
                            .changed_file = options.changed_file},
                           hooks);
  });
}

}  // namespace ublk::cli
