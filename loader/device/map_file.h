// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "device/state.h"
#include "layer/uuid.h"
#include "sys/error.h"
#include "sys/mmap_region.h"
#include "sys/unique_fd.h"

namespace ublk {

// A map that a server keeps in a file of its own beside the states, N.map,
// which it maps. So it outlives the server: it says what has been written while
// the disk does not know yet. All numbers are the machine's own. From
// kMapHeaderBytes on it has the words.
struct MapFileHeader {
  char magic[8];  // of its kind, with a NUL
  uint32_t version;
  uint32_t saved;  // 1: the disk has all of it, and no server serves it
  uint8_t of[16];  // UUID of the file on disk
  uint64_t nr_blocks;
  uint32_t block_bytes;
  uint32_t reserved;
  uint64_t words;
};
static_assert(sizeof(MapFileHeader) == 56);
inline constexpr uint32_t kMapVersion = 1;
inline constexpr uint64_t kMapHeaderBytes = 4096;

struct MapFileKind {
  std::string_view magic;  // 7 characters
  const char* what;        // "the map of a clone"
  const char* other;       // "the map of another layer"
  const char* lost;        // a hint for when it is gone
};

MapFileHeader map_file_header(const MapFileKind& kind, const Uuid& of,
                              uint64_t nr_blocks, uint32_t block_bytes,
                              uint64_t words);

// EPROTO: is another map's.
Result<void> check_map_header(const MapFileKind& kind, MapFileHeader header,
                              const MapFileHeader& wanted);
std::optional<MapFileHeader> read_map_header(const UniqueFd& fd);

struct MapFile {
  MmapRegion region{};
  std::span<uint64_t> words{};
  std::function<void(bool saved)> note{};  // valid while the region is
};
// Maps the file, which is `fresh` and becomes so long, or has been made before.
// EPROTO: it is not what is wanted.
Result<MapFile> map_words(const MapFileKind& kind, const UniqueFd& fd,
                          const MapFileHeader& wanted, bool fresh);

// N.map: a new one in place of what is there; the one that is there, or ENOENT
// with the hint.
Result<UniqueFd> new_map_file(const StateStore& states, uint32_t dev_id);
Result<UniqueFd> old_map_file(const MapFileKind& kind, const StateStore& states,
                              uint32_t dev_id);
bool is_map_saved(const UniqueFd& fd);

}  // namespace ublk
