// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include "sys/file_identity.h"
#include "sys/unique_fd.h"

namespace ublk {

// A descriptor of the file as this process has it open: the file itself, even
// if it has no name any more, or this one is in another mount namespace.
// Invalid if it has it not, not for writing where that is needed, or does not
// let it be had (pidfd_getfd(2)).
UniqueFd borrow_file(pid_t pid, const FileIdentity& file, bool writable);

}  // namespace ublk
