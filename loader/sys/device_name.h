// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "sys/error.h"

namespace ublk {

// A name that a user gives a device: 1 to 64 of A-Z a-z 0-9 . _ -, the first a
// letter or a digit, so that it can be a file's, a unit's and a link's. It is
// neither a number nor ublkbN, which are the kernel's. EINVAL: says which rule
// it breaks.
Result<void> check_device_name(const std::string& name);

}  // namespace ublk
