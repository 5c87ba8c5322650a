// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "layer/format.h"
#include "layer/layer.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

// What create, open and check have in common. Errors do not name the file,
// where it is not said: the caller does.

namespace ublk::layer_format {

// All of it; EPROTO: the file ends before.
Result<void> read_at(int fd, std::span<std::byte> into, uint64_t offset);
Result<void> write_at(int fd, std::span<const std::byte> from, uint64_t offset);
Result<void> sync_data(int fd);

// The same open file without O_DIRECT.
Result<UniqueFd> open_buffered(int fd, bool read_only);

// flock(2), without waiting. EBUSY, naming the file and
// who has it: somebody else's is in the way.
Result<void> lock(int fd, const std::string& path, Layer::Use use);
// From that of a top to that of a layer below.
Result<void> relax_lock(int fd, const std::string& path);

// A name in a layer, as seen from the layer's directory. Its ".." stay: behind
// symbolic links they mean something else.
std::string resolved(const std::string& layer_path, const std::string& stored);

// Header and path, checked. `path` is the layer's, absolute.
Result<Decoded> read_header(int fd, const std::string& path);

// Space for header and bitmap of a file: what is written can always be saved,
// on a full disk too. Space that is not written yet reads as a hole. Where
// there is no such, the file is as sparse as its data is.
Result<void> make_room(int fd, const LayerHeader& header);

// Lets go of what the cache has of [from, to).
void drop_cache(int fd, uint64_t from, uint64_t to);

// What is not a hole of [from, to): called in ascending order.
Result<void> for_each_data(
    int fd, uint64_t from, uint64_t to,
    const std::function<Result<void>(uint64_t from, uint64_t to)>& with);

// Where a bitmap is in a file, and whose UUID its sectors' checksums have.
struct BitmapPlace {
  Uuid of{};
  uint64_t offset = 0;  // bytes
  uint64_t nr_blocks = 0;
};
inline BitmapPlace bitmap_of(const LayerHeader& header) {
  return {header.uuid, header.bitmap_offset, header.nr_blocks()};
}

// The sectors of the bitmap that have been written. `with` gets the number, the
// fault and, without one, the bits.
using WithSector = std::function<Result<void>(
    uint64_t number, SectorFault fault, const BlockMap::SectorBits& bits)>;
Result<void> for_each_sector(int fd, const BitmapPlace& bitmap,
                             const WithSector& with);
// As a sentence about that sector.
std::string fault_text(const LayerHeader& header, uint64_t number,
                       SectorFault fault);
// Whether the last sector's bits go beyond the disk's end.
bool has_stray_bits(const LayerHeader& header, uint64_t number,
                    const BlockMap::SectorBits& bits);

// Changes the header durably: `fd` can be written. What a later program has put
// into it stays.
Result<void> change_header(int fd,
                           const std::function<void(HeaderSector&)>& with);
// Marks it as sealed, if it is not.
Result<void> seal(int fd);

}  // namespace ublk::layer_format
