// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "sys/error.h"

namespace ublk {

// EOPNOTSUPP, by name: an option of add is among `wanted`, UBLK_F_*, that the
// driver, or the device, does not have among its `flags`. Drivers ignore flags
// that they do not know, so it must be asked. Data paths and batches have
// checks of their own (server/data_path.h).
Result<void> check_wanted(uint64_t wanted, uint64_t flags);

}  // namespace ublk
