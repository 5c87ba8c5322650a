// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

void define_features(Arguments& command, Options&) {
  command.footer(
      "As the driver names them; probe says what they are good for.\n"
      "Example:\n"
      "  ublk-bpf features");
}

int run_features(const Options& options) {
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const auto features = control->features();
  if (!features) return report(features.error(), options.json);
  say(options.json ? features_json(*features) : features_text(*features));
  return kDone;
}

}  // namespace ublk::cli
