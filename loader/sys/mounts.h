// SPDX-License-Identifier: MIT
#pragma once

#include "sys/error.h"

namespace ublk {

// Gives the process a mount namespace of its own with nothing mounted but the
// root: a server of a device must not hold the file system on it, or on any
// other one, after the host has unmounted it. Its working directory becomes
// the root; what is to be used later has to be open before.
//
// An error says which mounts stay, and why. The host's umounts reach these
// where the host shares its mounts (mount_namespaces(7)), as systemd does.
Result<void> leave_mounts();

}  // namespace ublk
