// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "ctrl/control.h"
#include "device/serve.h"
#include "device/state.h"
#include "layer/layer.h"
#include "sys/error.h"

namespace ublk {

struct ForkRequest {
  std::string layer;     // the new device's; must not be there yet
  std::string sealed{};  // what the other's top becomes; "": a name like its
};

// What makes a second device of one that is a clone, in this order.
struct ForkPlan {
  std::string sealed{};  // a snapshot of this name; "": none is needed
  Layer::CreateOptions layer{};
  AddRequest device{};
};
// Changes nothing. EEXIST: one of the names is taken. EINVAL: not a clone that
// is written.
Result<ForkPlan> plan_fork(Control& control, const StateStore& states,
                           uint32_t dev_id, const ForkRequest& request);

}  // namespace ublk
