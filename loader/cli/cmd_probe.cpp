// SPDX-License-Identifier: MIT

#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

void define_probe(Arguments& command, Options&) {
  command.footer(
      "Ends with what to do on this host so that a program can be attached. "
      "Exit status 1 if none can be.\n"
      "Example:\n"
      "  ublk-bpf probe --json");
}

int run_probe(const Options& options) {
  const Probe found = probe();
  if (options.json) {
    say(probe_json(found));
    return found.can_attach ? kDone : kFailed;
  }
  say(fmt("kernel {}: ublk driver {}, BPF {}", found.kernel,
          found.ublk_module ? "there" : "missing", face_name(found.face.face)));
  if (!found.data_path.empty())
    say(fmt("data path by default: {}", found.data_path));
  for (const Feature& feature : found.features) {
    say(fmt("{:3} {:22} {}", feature.available ? "yes" : "no", feature.name,
            feature.needs));
    if (!feature.available) say(fmt("{:26} get it: {}", "", feature.how));
  }
  if (found.can_attach) {
    say("A program can be attached to every device that is added now.");
    return kDone;
  }
  say("No program can be attached on this host:");
  for (const std::string& step : found.advice) say(fmt("  - {}", step));
  return kFailed;
}

}  // namespace ublk::cli
