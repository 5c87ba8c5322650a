// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layer/layer.h"
#include "sys/error.h"

namespace ublk {

// Something that is wrong with a layer file.
struct LayerDamage {
  enum class Kind : uint8_t {
    header,           // not a layer of this version, or damaged: all is lost
    path,             // the name of the base cannot be read
    bitmap_checksum,  // of a sector: its blocks are not known
    bitmap_place,     // a sector that belongs elsewhere: likewise
    stray_bits,       // blocks beyond the disk's end are marked as present
    cut_short,        // the file ends before the disk does
    lost_blocks,      // present, in what was cut off
    base_missing,     // cannot be opened, or is not what it should be
    base_changed,     // is another one, or has changed since
    base_unsealed,    // can change at any time
    chain,            // a circle, or too many layers
  };
  Kind kind;
  uint64_t offset = 0;  // bytes, of the file; 0 where there is no place
  uint64_t bytes = 0;
  std::string what;
  bool mendable = false;  // without guessing
  bool mended = false;
};
// "bitmap_checksum"
const char* damage_name(LayerDamage::Kind kind);

struct LayerCheck {
  std::optional<LayerHeader> header{};  // if it can be read
  uint64_t bitmap_sectors = 0;          // of them written
  uint64_t present_blocks = 0;          // as far as they are known
  std::vector<LayerDamage> damages{};
  // What is still wrong.
  size_t left() const;
};

// Looks for all kinds of damage: in the file, and whether what is below it is
// what it was made on. With `repair` it mends what can be, durably, for which
// nobody else may have the layer open. Fails if it could not look.
// EBUSY: to repair it, and it is in use.
Result<LayerCheck> check_layer(const std::string& path, bool repair);

}  // namespace ublk
