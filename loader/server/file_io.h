// SPDX-License-Identifier: MIT
#pragma once

#include "server/target.h"

namespace ublk {

// What targets have in common whose bytes are those of files.

// The parameters of a device over such a file, from its specification on. For
// several files, one that allows what all of them do.
Result<void> set_file_params(Target& target, const Backing& file);

// A request as one SQE on this file of the ring; or its result, if there is
// none for it.
std::optional<int> prepare_file_io(const Target& target, const Io& io, int file,
                                   io_uring_sqe* sqe);
// When that SQE has completed with `res`: the next one, for the rest or as it
// was not begun, or what the request has come to on this file.
std::optional<int> go_on_file_io(const Target& target, Io& io, int file,
                                 int res, io_uring_sqe* sqe);

}  // namespace ublk
