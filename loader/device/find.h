// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "device/state.h"
#include "sys/error.h"

namespace ublk {

// The number of the device that a user means: by a number, by a name that it
// was added with, by the path of its block or character device or a link to
// that, or by a file that it serves and no other device does. A name goes
// before a file that is called the same.
//
// ENODEV: none. ENOTUNIQ: several devices serve the file; names them. Only the
// path of a node tells devices of other tools.
Result<uint32_t> find_device(const StateStore& states, const std::string& text);

// Of a name alone; nothing if no device that is there has it.
std::optional<uint32_t> find_name(const StateStore& states,
                                  const std::string& name);

}  // namespace ublk
