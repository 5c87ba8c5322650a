// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "layer/format.h"
#include "layer/track_file.h"
#include "sys/error.h"

// A track file as it is on disk: docs/track-format.md.

namespace ublk::track_format {

using layer_format::bytes_of;
using layer_format::kSectorBytes;
using layer_format::Le;

inline constexpr std::array<char, 8> kMagic = {'U', 'B', 'L', 'K',
                                               'T', 'R', 'A', 'K'};
inline constexpr uint32_t kVersion = 1;
// Bitmaps of periods that have ended, by number modulo this; then that of the
// current one. As many sectors for marks: one is to spare, which is written
// while all others are valid.
inline constexpr uint64_t kSlots = kMostMarks + 1;
inline constexpr uint64_t kPathOffset = 4096;
inline constexpr uint64_t kMarksOffset = 8192;
inline constexpr uint64_t kBitmapOffset = 16384;
inline constexpr uint32_t kMostPathBytes = 4095;
inline constexpr uint64_t kMostBitmapOffset = uint64_t{1} << 40;
inline constexpr size_t kMostDiskId = 128;

inline constexpr uint64_t kInUse = 1 << 0;
inline constexpr uint64_t kAll = 1 << 1;

struct HeaderSector {
  std::array<char, 8> magic;
  Le<uint32_t> version;
  Le<uint32_t> block_bytes;
  Le<uint64_t> incompatible;
  Le<uint64_t> state;
  Uuid uuid;
  Le<uint64_t> size_bytes;
  Le<uint64_t> offset_bytes;
  Le<uint64_t> period;
  Le<uint64_t> marks_offset;
  Le<uint64_t> bitmap_offset;
  Le<uint32_t> image_is_block;
  Le<uint32_t> image_disk_id_bytes;
  Le<uint64_t> image_dev;
  Le<uint64_t> image_ino;
  Le<uint64_t> image_born_ns;
  Le<uint64_t> image_diskseq;
  Le<uint64_t> image_first_sector;
  Le<uint64_t> image_size_bytes;
  Le<uint64_t> image_mtime_ns;
  std::array<char, kMostDiskId> image_disk_id;
  Le<uint64_t> path_offset;
  Le<uint32_t> path_bytes;
  Le<uint32_t> path_checksum;
  std::array<std::byte, 212> reserved;
  Le<uint32_t> checksum;
};
static_assert(sizeof(HeaderSector) == kSectorBytes);
static_assert(offsetof(HeaderSector, version) == 8);
static_assert(offsetof(HeaderSector, block_bytes) == 12);
static_assert(offsetof(HeaderSector, incompatible) == 16);
static_assert(offsetof(HeaderSector, state) == 24);
static_assert(offsetof(HeaderSector, uuid) == 32);
static_assert(offsetof(HeaderSector, size_bytes) == 48);
static_assert(offsetof(HeaderSector, offset_bytes) == 56);
static_assert(offsetof(HeaderSector, period) == 64);
static_assert(offsetof(HeaderSector, marks_offset) == 72);
static_assert(offsetof(HeaderSector, bitmap_offset) == 80);
static_assert(offsetof(HeaderSector, image_is_block) == 88);
static_assert(offsetof(HeaderSector, image_disk_id_bytes) == 92);
static_assert(offsetof(HeaderSector, image_dev) == 96);
static_assert(offsetof(HeaderSector, image_mtime_ns) == 144);
static_assert(offsetof(HeaderSector, image_disk_id) == 152);
static_assert(offsetof(HeaderSector, path_offset) == 280);
static_assert(offsetof(HeaderSector, path_checksum) == 292);
static_assert(offsetof(HeaderSector, checksum) == 508);

struct MarkSector {
  Le<uint64_t> number;
  Le<uint64_t> time_ns;
  Le<uint64_t> state;
  Uuid uuid;
  Le<uint32_t> name_bytes;
  std::array<char, kMostMarkName> name;
  std::array<std::byte, 336> reserved;
  Le<uint32_t> checksum;  // over what is before it and the file's UUID
};
static_assert(sizeof(MarkSector) == kSectorBytes);
static_assert(offsetof(MarkSector, name_bytes) == 40);
static_assert(offsetof(MarkSector, name) == 44);
static_assert(offsetof(MarkSector, checksum) == 508);

// Refuses all that is not a track file of this version, whole and sane. EPROTO.
Result<TrackHeader> decode_header(
    std::span<const std::byte, kSectorBytes> bytes);
HeaderSector encode_header(const TrackHeader& header);
void put_checksum(HeaderSector& sector);

// EPROTO: is not the mark of this number.
Result<TrackMark> decode_mark(const Uuid& file, uint64_t number,
                              const MarkSector& sector);
MarkSector encode_mark(const Uuid& file, const TrackMark& mark);

inline uint64_t slot_bytes(const TrackHeader& header) {
  return BlockMap::sectors_for(header.nr_blocks()) * kSectorBytes;
}
// How long the file is, at least.
inline uint64_t file_bytes(const TrackHeader& header) {
  return header.bitmap_offset + (kSlots + 1) * slot_bytes(header);
}

}  // namespace ublk::track_format
