// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ctrl/control.h"
#include "device/state.h"
#include "layer/layer.h"
#include "server/target.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// The map of a clone's top layer, while it has a device and no program: N.map
// (device/map_file.h). It says of blocks that they are present, whose writes
// have completed, while the disk does not know yet: the words of
// Layer::OpenOptions::memory.

enum class Adopt : uint8_t {
  no,      // a new map
  if_its,  // that of the server before, if it is this layer's
  yes,     // that must be there
};
// Before the queues of a clone run: makes it theirs, with a map in memory that
// outlives this process. Of other targets nothing. EBUSY: the layer is in use.
Result<void> connect_clone(const StateStore& states, uint32_t dev_id,
                           Target& target, Adopt adopt);

// Of a device that no server has: writes to the layer what its map says and the
// disk does not, if there is such a map; likewise to a track file. Whatever
// else the state is of, nothing is done.
Result<void> write_map_out(const StateStore& states, const DeviceState& state);

// The map of a clone's program becomes a file like that of one without, for the
// next write_map_out(): where this one could not be done, and the program is
// about to go.
Result<void> keep_map_file(const StateStore& states, const DeviceState& state);

// While they are open, write_map_out() finds the maps of a device that has its
// own program, also when that is gone. Empty: there are none.
std::vector<UniqueFd> hold_maps(const DeviceState& state);

// How full each of a clone's layers is, in their order, as far as it can be
// known: of the first what its device has now, of the others what is on disk.
struct LayerUse {
  uint64_t present_blocks = 0;
  uint64_t nr_blocks = 0;
  uint32_t block_bytes = 0;
};
std::vector<std::optional<LayerUse>> layer_uses(const StateStore& states,
                                                const DeviceState& state);

// A clone's chain for a look, the top layer with the blocks that its device has
// now, which the file may lack.
struct LiveChain {
  std::vector<std::vector<uint64_t>> memory{};  // outlives the chain
  LayerChain chain{};
};
// EINVAL: it is not a clone. EAGAIN: in vain for some seconds, as its layers
// change.
Result<LiveChain> live_chain(const StateStore& states, uint32_t dev_id);

// Before a clone gets a device, or an image one that tracks it: the same for
// devices of its layer, or image, that are dead, or gone. ESTALE and the like:
// it could not be done for one of them.
Result<void> write_left_maps(Control& control, KnownStates& states,
                             const Target& target);

}  // namespace ublk
