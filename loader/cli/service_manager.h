// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>

#include "sys/error.h"

namespace ublk::cli {

// Whether a service manager waits to hear from this command (NOTIFY_SOCKET).
bool has_service_manager();

// Tells it that the service is ready, and that `server` is its main process,
// which need not be a child of this one. Nothing happens without a manager.
Result<void> tell_ready(pid_t server, const std::string& status);

}  // namespace ublk::cli
