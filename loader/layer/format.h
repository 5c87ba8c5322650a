// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "layer/block_map.h"
#include "layer/layer.h"
#include "sys/error.h"

// A layer file as it is on disk: docs/layer-format.md.

namespace ublk::layer_format {

// An integer in little endian.
template <typename T>
class Le {
 public:
  Le() = default;
  Le(T value) : raw_(turned(value)) {}
  operator T() const { return turned(raw_); }

 private:
  static constexpr T turned(T value) {
    return std::endian::native == std::endian::little ? value
                                                      : std::byteswap(value);
  }
  T raw_{};
};

inline constexpr uint64_t kSectorBytes = 512;
inline constexpr std::array<char, 8> kMagic = {'U', 'B', 'L', 'K',
                                               'L', 'A', 'Y', 'R'};
inline constexpr uint32_t kVersion = 1;
// Of a path, without the NUL that is not there.
inline constexpr uint32_t kMostPathBytes = 4095;
inline constexpr uint64_t kPathOffset = 4096;
inline constexpr uint64_t kOtherPathOffset = 8192;
inline constexpr uint64_t kBitmapOffset = 12288;
inline constexpr uint64_t kMetadataAlign = 4096;
inline constexpr uint64_t kDataAlign = 1 << 20;
inline constexpr uint64_t kMostDataOffset = uint64_t{1} << 40;

// What the header's flags can say. Unknown ones: docs/layer-format.md.
inline constexpr uint64_t kSealed = 1 << 0;  // of read_only

struct HeaderSector {
  std::array<char, 8> magic;
  Le<uint32_t> version;
  Le<uint32_t> path_bytes;
  Le<uint64_t> incompatible;
  Le<uint64_t> read_only;
  Le<uint64_t> compatible;
  Uuid uuid;
  Le<uint64_t> size_bytes;
  Le<uint32_t> block_bytes;
  Le<uint32_t> base_kind;
  Uuid base_uuid;
  Le<uint64_t> base_size_bytes;
  Le<uint64_t> base_mtime_ns;
  Le<uint64_t> path_offset;
  Le<uint64_t> bitmap_offset;
  Le<uint64_t> data_offset;
  Le<uint32_t> path_checksum;
  std::array<std::byte, 376> reserved;
  Le<uint32_t> checksum;
};
static_assert(sizeof(HeaderSector) == kSectorBytes);
static_assert(offsetof(HeaderSector, version) == 8);
static_assert(offsetof(HeaderSector, path_bytes) == 12);
static_assert(offsetof(HeaderSector, incompatible) == 16);
static_assert(offsetof(HeaderSector, read_only) == 24);
static_assert(offsetof(HeaderSector, compatible) == 32);
static_assert(offsetof(HeaderSector, uuid) == 40);
static_assert(offsetof(HeaderSector, size_bytes) == 56);
static_assert(offsetof(HeaderSector, block_bytes) == 64);
static_assert(offsetof(HeaderSector, base_kind) == 68);
static_assert(offsetof(HeaderSector, base_uuid) == 72);
static_assert(offsetof(HeaderSector, base_size_bytes) == 88);
static_assert(offsetof(HeaderSector, base_mtime_ns) == 96);
static_assert(offsetof(HeaderSector, path_offset) == 104);
static_assert(offsetof(HeaderSector, bitmap_offset) == 112);
static_assert(offsetof(HeaderSector, data_offset) == 120);
static_assert(offsetof(HeaderSector, path_checksum) == 128);
static_assert(offsetof(HeaderSector, checksum) == 508);

struct BitmapSector {
  std::array<Le<uint64_t>, BlockMap::kSectorWords> bits;
  Le<uint32_t> number;
  Le<uint32_t> checksum;  // over what is before it and the layer's UUID
};
static_assert(sizeof(BitmapSector) == kSectorBytes);
static_assert(offsetof(BitmapSector, number) == 504);

// Where the path of the base is in the file, and its checksum.
struct PathPlace {
  uint64_t offset = 0;
  uint32_t bytes = 0;
  uint32_t checksum = 0;
};
struct Decoded {
  LayerHeader header{};
  PathPlace path{};
};

// Refuses all that is not a layer of this version, whole and sane. EPROTO.
Result<Decoded> decode_header(std::span<const std::byte, kSectorBytes> bytes);
HeaderSector encode_header(const LayerHeader& header, const PathPlace& path);
void put_checksum(HeaderSector& sector);
uint32_t path_checksum(const Uuid& layer, std::string_view path);

BitmapSector encode_bits(const Uuid& layer, uint64_t number,
                         const BlockMap::SectorBits& bits);
// What is wrong with it, or nothing; `bits` are all 0 then and of one that was
// never written.
enum class SectorFault : uint8_t { none, checksum, misplaced };
SectorFault decode_bits(const Uuid& layer, uint64_t number,
                        const BitmapSector& sector, BlockMap::SectorBits& bits);

template <typename Sector>
std::span<const std::byte, kSectorBytes> bytes_of(const Sector& sector) {
  return std::span<const std::byte, kSectorBytes>(
      reinterpret_cast<const std::byte*>(&sector), kSectorBytes);
}

// Where the data of a new layer begins, so that its disk can grow to eight
// times this size.
uint64_t data_offset_for(uint64_t size_bytes, uint32_t block_bytes);
// How long the file is, at least.
inline uint64_t file_bytes(const LayerHeader& header) {
  return header.data_offset + header.size_bytes;
}

}  // namespace ublk::layer_format
