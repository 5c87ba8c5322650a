// SPDX-License-Identifier: MIT
#include "layer/track_extents.h"

#include <algorithm>

#include "layer/layer_file.h"

namespace ublk {

namespace {

// Runs of blocks that have their bit, in bytes of the device.
Result<void> for_each_run(
    const TrackHeader& header, TrackBits& bits, bool all,
    const std::function<Result<void>(uint64_t start, uint64_t end)>& with) {
  if (all) return with(0, header.size_bytes);
  bits.resize(BlockMap::words_for(header.nr_blocks()));
  const BlockMap map(header.nr_blocks(), bits, {});
  for (uint64_t block = 0; block < map.nr_blocks();) {
    const uint64_t run = map.run(block, map.nr_blocks() - block);
    if (map.present(block))
      TRY(with(
          block * header.block_bytes,
          std::min((block + run) * header.block_bytes, header.size_bytes)));
    block += run;
  }
  return {};
}

}  // namespace

uint64_t tracked_bytes(const TrackHeader& header, TrackBits& bits, bool all) {
  uint64_t bytes = 0;
  // It fails only with what it calls.
  (void)for_each_run(header, bits, all,
                     [&](uint64_t start, uint64_t end) -> Result<void> {
                       bytes += end - start;
                       return {};
                     });
  return bytes;
}

Result<void> for_each_tracked(
    const TrackHeader& header, TrackBits& bits, bool all, int image,
    const std::function<Result<void>(const LayerChange&)>& with) {
  return for_each_run(
      header, bits, all, [&](uint64_t start, uint64_t end) -> Result<void> {
        const auto add = [&](uint64_t to, bool zero) -> Result<void> {
          if (to == start) return {};
          TRY(with({.start = start, .length = to - start, .zero = zero}));
          start = to;
          return {};
        };
        const uint64_t offset = header.offset_bytes;
        TRY(layer_format::for_each_data(
            image, start + offset, end + offset,
            [&](uint64_t from, uint64_t to) -> Result<void> {
              TRY(add(from - offset, true));
              return add(to - offset, false);
            }));
        return add(end, true);
      });
}

}  // namespace ublk
