// SPDX-License-Identifier: MIT
#pragma once

#include <string>

namespace ublk {

// Who has a flock(2) on this open file, "sshd, process 12", or "": the kernel
// does not tell.
std::string lock_holder(int fd);

}  // namespace ublk
