// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "sys/error.h"

namespace ublk {

using Uuid = std::array<uint8_t, 16>;  // all zero: none

// "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
std::string uuid_text(const Uuid& uuid);
// A random one, version 4.
Result<Uuid> new_uuid();

}  // namespace ublk
