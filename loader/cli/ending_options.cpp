// SPDX-License-Identifier: MIT
#include "cli/ending_options.h"

#include "cli/output.h"

namespace ublk::cli {

void define_ending(Arguments& command, Options& options) {
  command.flag("--force", options.force,
               "even if somebody has the block device, or its server has to "
               "be killed with its other devices");
  command.seconds("--patience", options.patience, 0,
                  "how long its server may complete nothing before it is "
                  "killed");
}

EndOptions ending_options(const Options& options) {
  return {.force = options.force,
          .patience = std::chrono::seconds(options.patience),
          .warn = [](const Error& error) { warn(error); }};
}

}  // namespace ublk::cli
