// SPDX-License-Identifier: MIT
#include "cli/with_device.h"

#include "cli/output.h"

namespace ublk::cli {

int with_device(
    const Options& options,
    const std::function<Result<void>(Control& control, const StateStore& states,
                                     uint32_t dev_id)>& what) {
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  if (auto done = what(*control, states, dev_id); !done)
    return report(done.error(), options.json);
  if (!options.json) return kDone;
  auto device = describe(*control, states, dev_id);
  if (!device) return report(device.error(), options.json);
  say(device_json(*device));
  return kDone;
}

}  // namespace ublk::cli
