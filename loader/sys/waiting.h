// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

namespace ublk {

// How long one sleeps who waits for what the kernel tells nobody, before the
// next look.
constexpr std::chrono::milliseconds kRetryPeriod{5};
// The same where a look reads what all processes have open.
constexpr std::chrono::milliseconds kScanPeriod{20};
// For another process's lock: what a server had open is closed some time after
// it has ended, by a worker of the kernel's.
constexpr std::chrono::milliseconds kLockWait{2000};

}  // namespace ublk
