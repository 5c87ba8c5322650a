// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "layer/layer.h"
#include "sys/error.h"

namespace ublk {

// A part of a disk whose bytes are all from one place.
struct LayerExtent {
  uint64_t start = 0;   // bytes, of the disk
  uint64_t length = 0;  // bytes
  // Of the layer that it is from: 0 is the topmost. That of the file below
  // them all is the number of layers. Of what nothing has: the undermost.
  uint32_t depth = 0;
  bool present = false;  // some layer has it, or the file below does
  bool zero = false;     // reads as zeroes: a hole, or nothing has it
  uint64_t offset = 0;   // of its first byte, in its file; if it is not zero
};

// All of the topmost layer's disk, in ascending order, neighbours that belong
// together as one. A failure of `with` ends it.
Result<void> for_each_extent(
    const LayerChain& chain,
    const std::function<Result<void>(const LayerExtent&)>& with);

// A part of a disk that is not, or may not be, what it was.
struct LayerChange {
  uint64_t start = 0;   // bytes, of the disk
  uint64_t length = 0;  // bytes
  bool zero = false;    // reads as zeroes now
};

// What the layers above the one of this depth have (or above the file below
// them all, of which the depth is the number of layers), and where the topmost
// one's disk is longer: what a copy of that layer's disk lacks. In ascending
// order, neighbours of a kind as one. A failure of `with` ends it.
Result<void> for_each_change(
    const LayerChain& chain, uint32_t depth,
    const std::function<Result<void>(const LayerChange&)>& with);

// Of the layer in the chain that this file is, by its UUID; or of the file
// below them. ENOENT: it is not one of them.
Result<uint32_t> depth_of_layer(const LayerChain& chain,
                                const std::string& path);

}  // namespace ublk
