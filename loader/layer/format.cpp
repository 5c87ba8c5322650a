// SPDX-License-Identifier: MIT
#include "layer/format.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "layer/crc32c.h"
#include "sys/sizes.h"

namespace ublk::layer_format {

namespace {

uint32_t header_checksum(const HeaderSector& sector) {
  return crc32c(bytes_of(sector).first<offsetof(HeaderSector, checksum)>());
}

uint32_t bits_checksum(const Uuid& layer, const BitmapSector& sector) {
  const uint32_t own =
      crc32c(bytes_of(sector).first<offsetof(BitmapSector, checksum)>());
  return crc32c(std::as_bytes(std::span(layer)), own);
}

Result<void> check_sizes(const HeaderSector& sector) {
  const uint64_t size = sector.size_bytes;
  const uint32_t block = sector.block_bytes;
  if (!size || size % kSectorBytes)
    return fail(EPROTO, "header: a size of {} bytes is not one or more sectors",
                size);
  if (size > kMostLayerBytes)
    return fail(EPROTO, "header: a size of {} bytes is more than 64 TiB", size);
  if (!is_power_of_2(block) || block < kLeastBlockBytes ||
      block > kMostBlockBytes)
    return fail(EPROTO,
                "header: a block of {} bytes is not a power of two from 4 KiB "
                "to 1 MiB",
                block);
  return {};
}

// Header, path, bitmap, data: in this order, apart from each other. After
// check_sizes(), which keeps what is added here from overflowing.
Result<void> check_places(const HeaderSector& sector) {
  const uint64_t bitmap = sector.bitmap_offset;
  const uint64_t data = sector.data_offset;
  const uint64_t nr_blocks =
      (sector.size_bytes + sector.block_bytes - 1) / sector.block_bytes;
  const uint64_t bitmap_bytes = BlockMap::sectors_for(nr_blocks) * kSectorBytes;
  if (data > kMostDataOffset || data % kDataAlign)
    return fail(EPROTO,
                "header: data at offset {}, which is not a multiple of 1 MiB, "
                "up to 1 TiB",
                data);
  if (bitmap < kSectorBytes || bitmap % kMetadataAlign || bitmap > data ||
      data - bitmap < bitmap_bytes)
    return fail(EPROTO,
                "header: a bitmap of {} bytes at offset {} is not between "
                "header and data",
                bitmap_bytes, bitmap);
  return {};
}

Result<void> check_base(const HeaderSector& sector) {
  const uint32_t kind = sector.base_kind;
  const uint64_t offset = sector.path_offset;
  const uint64_t bytes = sector.path_bytes;
  if (kind > static_cast<uint32_t>(LayerBase::Kind::file))
    return fail(EPROTO, "header: a base of kind {} is not known", kind);
  const bool has_base = kind != static_cast<uint32_t>(LayerBase::Kind::none);
  if (!has_base && bytes)
    return fail(EPROTO, "header: a path of {} bytes, and no base", bytes);
  if (!has_base) return {};
  if (!bytes || bytes > kMostPathBytes)
    return fail(EPROTO, "header: a path of {} bytes; it can have 1 to {}",
                bytes, kMostPathBytes);
  if (offset < kSectorBytes || offset > sector.bitmap_offset ||
      sector.bitmap_offset - offset < bytes)
    return fail(EPROTO,
                "header: a path of {} bytes at offset {} is not between header "
                "and bitmap",
                bytes, offset);
  return {};
}

}  // namespace

Result<Decoded> decode_header(std::span<const std::byte, kSectorBytes> bytes) {
  HeaderSector sector;
  std::memcpy(&sector, bytes.data(), sizeof(sector));
  if (sector.magic != kMagic)
    return fail(EPROTO, "is not a layer: it does not begin with {}",
                std::string_view(kMagic.data(), kMagic.size()));
  // Before the checksum, which may be elsewhere in another version.
  if (sector.version != kVersion)
    return fail(EPROTO, "is a layer of version {}, this program knows {}",
                uint32_t{sector.version}, kVersion);
  if (sector.checksum != header_checksum(sector))
    return fail(EPROTO, "header: the checksum is wrong");
  if (sector.incompatible)
    return fail(EPROTO,
                "header: has features that this program does not know: flags "
                "{:#x}",
                uint64_t{sector.incompatible});
  TRY(check_sizes(sector));
  TRY(check_places(sector));
  TRY(check_base(sector));
  Decoded out;
  out.header = {
      .uuid = sector.uuid,
      .size_bytes = sector.size_bytes,
      .block_bytes = sector.block_bytes,
      .sealed = (sector.read_only & kSealed) != 0,
      .read_only = (sector.read_only & ~kSealed) != 0,
      .base = {.kind = static_cast<LayerBase::Kind>(uint32_t{sector.base_kind}),
               .uuid = sector.base_uuid,
               .size_bytes = sector.base_size_bytes,
               .mtime_ns =
                   static_cast<int64_t>(uint64_t{sector.base_mtime_ns})},
      .bitmap_offset = sector.bitmap_offset,
      .data_offset = sector.data_offset};
  out.path = {.offset = sector.path_offset,
              .bytes = sector.path_bytes,
              .checksum = sector.path_checksum};
  return out;
}

HeaderSector encode_header(const LayerHeader& header, const PathPlace& path) {
  HeaderSector sector{};
  sector.magic = kMagic;
  sector.version = kVersion;
  sector.path_bytes = path.bytes;
  sector.read_only = header.sealed ? kSealed : 0;
  sector.uuid = header.uuid;
  sector.size_bytes = header.size_bytes;
  sector.block_bytes = header.block_bytes;
  sector.base_kind = static_cast<uint32_t>(header.base.kind);
  sector.base_uuid = header.base.uuid;
  sector.base_size_bytes = header.base.size_bytes;
  sector.base_mtime_ns = static_cast<uint64_t>(header.base.mtime_ns);
  sector.path_offset = path.offset;
  sector.bitmap_offset = header.bitmap_offset;
  sector.data_offset = header.data_offset;
  sector.path_checksum = path.checksum;
  put_checksum(sector);
  return sector;
}

void put_checksum(HeaderSector& sector) {
  sector.checksum = header_checksum(sector);
}

uint32_t path_checksum(const Uuid& layer, std::string_view path) {
  return crc32c(std::as_bytes(std::span(layer)),
                crc32c(std::as_bytes(std::span(path))));
}

BitmapSector encode_bits(const Uuid& layer, uint64_t number,
                         const BlockMap::SectorBits& bits) {
  BitmapSector sector{};
  std::ranges::copy(bits, sector.bits.begin());
  sector.number = static_cast<uint32_t>(number);
  sector.checksum = bits_checksum(layer, sector);
  return sector;
}

SectorFault decode_bits(const Uuid& layer, uint64_t number,
                        const BitmapSector& sector,
                        BlockMap::SectorBits& bits) {
  bits = {};
  // Most of a large disk's were never written.
  static constexpr BitmapSector kUnwritten{};
  if (std::memcmp(&sector, &kUnwritten, sizeof(sector)) == 0)
    return SectorFault::none;
  if (sector.checksum != bits_checksum(layer, sector))
    return SectorFault::checksum;
  if (sector.number != number) return SectorFault::misplaced;
  std::ranges::copy(sector.bits, bits.begin());
  return SectorFault::none;
}

uint64_t data_offset_for(uint64_t size_bytes, uint32_t block_bytes) {
  constexpr uint64_t kTimes = 8;
  const uint64_t most =
      std::max(size_bytes, std::min(size_bytes * kTimes, kMostLayerBytes));
  const uint64_t nr_blocks = (most + block_bytes - 1) / block_bytes;
  const uint64_t end =
      kBitmapOffset + BlockMap::sectors_for(nr_blocks) * kSectorBytes;
  return (end + kDataAlign - 1) / kDataAlign * kDataAlign;
}

}  // namespace ublk::layer_format
