// SPDX-License-Identifier: MIT
#pragma once

#include <functional>

#include "layer/extents.h"
#include "layer/track_file.h"
#include "sys/error.h"

namespace ublk {

// Bytes of the blocks of a device that have their bit in `bits`, or with `all`
// of all of them.
uint64_t tracked_bytes(const TrackHeader& header, TrackBits& bits, bool all);

// The same as extents, in ascending order, neighbours of a kind as one; what is
// a hole of the image, which is open as `image`, is `zero`. A failure of `with`
// ends it.
Result<void> for_each_tracked(
    const TrackHeader& header, TrackBits& bits, bool all, int image,
    const std::function<Result<void>(const LayerChange&)>& with);

}  // namespace ublk
