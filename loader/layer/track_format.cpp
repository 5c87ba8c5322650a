// SPDX-License-Identifier: MIT
#include "layer/track_format.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "layer/crc32c.h"
#include "sys/sizes.h"

namespace ublk::track_format {

namespace {

template <typename Sector>
uint32_t own_checksum(const Sector& sector) {
  return crc32c(bytes_of(sector).template first<offsetof(Sector, checksum)>());
}

uint32_t mark_checksum(const Uuid& file, const MarkSector& sector) {
  return crc32c(std::as_bytes(std::span(file)), own_checksum(sector));
}

Result<void> check_sizes(const HeaderSector& sector) {
  const uint64_t size = sector.size_bytes;
  const uint32_t block = sector.block_bytes;
  if (!size || size % kSectorBytes || size > kMostTrackedBytes)
    return fail(EPROTO,
                "header: a size of {} bytes is not one or more sectors, up to "
                "64 TiB",
                size);
  if (!is_power_of_2(block) || block < kLeastTrackBlock ||
      block > kMostTrackBlock)
    return fail(EPROTO,
                "header: a block of {} bytes is not a power of two from 4 KiB "
                "to 16 MiB",
                block);
  if ((size - 1) / block >= kMostTrackBlocks)
    return fail(EPROTO, "header: {} bytes are too many blocks of {}", size,
                block);
  return {};
}

Result<void> check_places(const HeaderSector& sector) {
  const uint64_t marks = sector.marks_offset;
  const uint64_t bitmap = sector.bitmap_offset;
  if (bitmap > kMostBitmapOffset || bitmap % kSectorBytes ||
      marks % kSectorBytes || marks < kSectorBytes || marks > bitmap ||
      bitmap - marks < kSlots * kSectorBytes)
    return fail(EPROTO, "header: marks at offset {} and bitmaps at {}", marks,
                bitmap);
  const uint64_t path = sector.path_offset;
  const uint32_t bytes = sector.path_bytes;
  if (bytes > kMostPathBytes || path < kSectorBytes || path > marks ||
      marks - path < bytes)
    return fail(EPROTO,
                "header: a path of {} bytes at offset {} is not between header "
                "and marks",
                bytes, path);
  return {};
}

}  // namespace

Result<TrackHeader> decode_header(
    std::span<const std::byte, kSectorBytes> bytes) {
  HeaderSector sector;
  std::memcpy(&sector, bytes.data(), sizeof(sector));
  if (sector.magic != kMagic)
    return fail(EPROTO, "is not a track file: it does not begin with {}",
                std::string_view(kMagic.data(), kMagic.size()));
  // Before the checksum, which may be elsewhere in another version.
  if (sector.version != kVersion)
    return fail(EPROTO, "is a track file of version {}, this program knows {}",
                uint32_t{sector.version}, kVersion);
  if (sector.checksum != own_checksum(sector))
    return fail(EPROTO, "header: the checksum is wrong");
  if (sector.incompatible)
    return fail(EPROTO,
                "header: has features that this program does not know: flags "
                "{:#x}",
                uint64_t{sector.incompatible});
  TRY(check_sizes(sector));
  TRY(check_places(sector));
  const uint32_t id_bytes = sector.image_disk_id_bytes;
  if (id_bytes > kMostDiskId)
    return fail(EPROTO, "header: a disk's identity of {} bytes", id_bytes);
  TrackHeader header{.uuid = sector.uuid,
                     .size_bytes = sector.size_bytes,
                     .offset_bytes = sector.offset_bytes,
                     .block_bytes = sector.block_bytes,
                     .in_use = (sector.state & kInUse) != 0,
                     .all = (sector.state & kAll) != 0,
                     .period = sector.period,
                     .path = {.offset = sector.path_offset,
                              .bytes = sector.path_bytes,
                              .checksum = sector.path_checksum},
                     .marks_offset = sector.marks_offset,
                     .bitmap_offset = sector.bitmap_offset};
  header.image = {
      .identity = {.is_block = sector.image_is_block != 0,
                   .dev = sector.image_dev,
                   .ino = sector.image_ino,
                   .born_ns = sector.image_born_ns,
                   .diskseq = sector.image_diskseq,
                   .first_sector = sector.image_first_sector,
                   .disk_id = {sector.image_disk_id.data(), id_bytes}},
      .size_bytes = sector.image_size_bytes,
      .mtime_ns = static_cast<int64_t>(uint64_t{sector.image_mtime_ns})};
  return header;
}

HeaderSector encode_header(const TrackHeader& header) {
  HeaderSector sector{};
  sector.magic = kMagic;
  sector.version = kVersion;
  sector.block_bytes = header.block_bytes;
  sector.state = (header.in_use ? kInUse : 0) | (header.all ? kAll : 0);
  sector.uuid = header.uuid;
  sector.size_bytes = header.size_bytes;
  sector.offset_bytes = header.offset_bytes;
  sector.period = header.period;
  sector.path_offset = header.path.offset;
  sector.path_bytes = header.path.bytes;
  sector.path_checksum = header.path.checksum;
  sector.marks_offset = header.marks_offset;
  sector.bitmap_offset = header.bitmap_offset;
  const FileIdentity& image = header.image.identity;
  sector.image_is_block = image.is_block ? 1 : 0;
  sector.image_dev = image.dev;
  sector.image_ino = image.ino;
  sector.image_born_ns = image.born_ns;
  sector.image_diskseq = image.diskseq;
  sector.image_first_sector = image.first_sector;
  sector.image_size_bytes = header.image.size_bytes;
  sector.image_mtime_ns = static_cast<uint64_t>(header.image.mtime_ns);
  const auto id = std::string_view(image.disk_id).substr(0, kMostDiskId);
  std::ranges::copy(id, sector.image_disk_id.begin());
  sector.image_disk_id_bytes = static_cast<uint32_t>(id.size());
  put_checksum(sector);
  return sector;
}

void put_checksum(HeaderSector& sector) {
  sector.checksum = own_checksum(sector);
}

Result<TrackMark> decode_mark(const Uuid& file, uint64_t number,
                              const MarkSector& sector) {
  if (sector.checksum != mark_checksum(file, sector))
    return fail(EPROTO, "mark {}: the checksum is wrong", number);
  const uint32_t bytes = sector.name_bytes;
  if (sector.number != number || bytes > kMostMarkName)
    return fail(EPROTO, "mark {}: is another one, or has a name of {} bytes",
                number, bytes);
  return TrackMark{.number = number,
                   .time_ns = sector.time_ns,
                   .all = (sector.state & kAll) != 0,
                   .uuid = sector.uuid,
                   .name = {sector.name.data(), bytes}};
}

MarkSector encode_mark(const Uuid& file, const TrackMark& mark) {
  MarkSector sector{};
  sector.number = mark.number;
  sector.time_ns = mark.time_ns;
  sector.state = mark.all ? kAll : 0;
  sector.uuid = mark.uuid;
  sector.name_bytes = static_cast<uint32_t>(mark.name.size());
  std::ranges::copy(mark.name, sector.name.begin());
  sector.checksum = mark_checksum(file, sector);
  return sector;
}

}  // namespace ublk::track_format
