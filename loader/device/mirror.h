// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "device/serve.h"
#include "device/workplace.h"
#include "server/target.h"
#include "sys/error.h"

namespace ublk {

// Before the queues of a mirror run: what its legs are is from now on noted in
// the device's state and in the map that its program reads. That is the one
// with the id `map_id`, if it is still there: a program has it, or is about to.
// Else it is made. Returns its id; 0 of other targets, of a device without BPF,
// and where the kernel makes none.
Result<uint32_t> connect_legs(Workplace& place, const ServeHooks& hooks,
                              const ublksrv_ctrl_dev_info& info, Target& target,
                              uint32_t map_id);

}  // namespace ublk
