// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "device/device.h"
#include "device/state.h"
#include "server/target.h"

namespace ublk {

// Two devices that write to the same bytes of a file, or of which one writes,
// each with a file system's or a cache's idea of what is there, are a mistake
// unless somebody says otherwise. What a device's program has counts like what
// its server has.
//
// `claims` are the targets of devices that are to be, as claim_of() has them.
// EBUSY: two of them have bytes in common, or a device of ours has that is not
// dead and not among `except`.
TargetSpec claim_of(const Target& target);
Result<void> check_claims(Control& control, KnownStates& states,
                          const std::vector<TargetSpec>& claims,
                          const std::vector<uint32_t>& except = {});

// The same of files that are to be given to a device's program (attach --file).
// It has all of each, unless it has one file only, and a knob `offset`: then as
// many bytes from there as the device has.
Result<void> check_program_files(Control& control, const StateStore& states,
                                 const Device& device,
                                 const AttachedState& program);

// Whether a device writes to this layer, be it one that waits for a server: it
// has blocks that the layer lacks. EBUSY: names it.
Result<void> check_no_device_has(const StateStore& states,
                                 const std::string& layer);

}  // namespace ublk
