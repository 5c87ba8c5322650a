// SPDX-License-Identifier: MIT
//
// Track files: whatever is in one, it is opened or refused, and what was opened
// can be read and marked. The input is a byte that says whether checksums are
// made right, a header, a mark, and a sector of a bitmap.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "fuzz.h"
#include "layer/layer_file.h"
#include "layer/track_extents.h"
#include "layer/track_format.h"

namespace {

using namespace ublk;
using namespace ublk::track_format;
using layer_format::write_at;

constexpr uint8_t kRight = 1;
constexpr uint64_t kMostBytes = 64 << 20;  // what is large is only slow

void put(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  must(write_at(fd, bytes, offset).has_value(), "the file is written");
}

template <typename Sector>
Sector take(std::string_view& input) {
  Sector sector{};
  const auto part = input.substr(0, sizeof(sector));
  std::memcpy(&sector, part.data(), part.size());
  input.remove_prefix(part.size());
  return sector;
}

void look(const std::string& path, int image) {
  auto file = TrackFile::open(path, TrackFile::Use::write);
  if (!file) {
    must(!file.error().line().empty(), "a refusal says why");
    return;
  }
  const TrackHeader header = file->header();
  must(file->marks().size() <= kMostMarks, "marks are those that are kept");
  TrackBits bits;
  for (const TrackMark& mark : file->marks())
    must(file->add_period(mark.number, bits).has_value(), "a period is read");
  uint64_t at = 0, bytes = 0;
  const auto done = for_each_tracked(
      header, bits, false, image, [&](const LayerChange& c) -> Result<void> {
        must(c.length && c.start >= at, "extents ascend");
        at = c.start + c.length;
        bytes += c.length;
        return {};
      });
  must(done && at <= header.size_bytes &&
           bytes == tracked_bytes(header, bits, false),
       "extents are of the device, and as many as are counted");
  if (header.period == UINT64_MAX || file_bytes(header) > kMostBytes) return;
  must(file->add_mark("fuzz", bits, false).has_value() ||
           std::ranges::contains(file->marks(), "fuzz", &TrackMark::name),
       "it is marked");
  must(TrackFile::open(path, TrackFile::Use::look).has_value(),
       "what was written can be read");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 + kSectorBytes) return 0;
  std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  auto header = take<HeaderSector>(input);
  auto mark = take<MarkSector>(input);
  auto bits = take<layer_format::BitmapSector>(input);
  if (data[0] & kRight) {
    header.magic = kMagic;
    header.version = kVersion;
    put_checksum(header);
  }
  static const int fd = ::memfd_create("track", MFD_CLOEXEC);
  static const int image = ::memfd_create("image", MFD_CLOEXEC);
  static const std::string path = fmt("/proc/self/fd/{}", fd);
  must(::ftruncate(fd, 0) == 0, "the file is emptied");
  put(fd, bytes_of(header), 0);
  if (const auto decoded = decode_header(bytes_of(header))) {
    must(decode_header(bytes_of(encode_header(*decoded))).has_value(),
         "what was written can be read");
    if (decoded->size_bytes / decoded->block_bytes > 1 << 20) return 0;
    const uint64_t number = decoded->period;
    if (data[0] & kRight) {
      mark.number = number;
      if (auto text = decode_mark(header.uuid, number, mark); !text) {
        TrackMark made{.number = number, .uuid = mark.uuid};
        mark = encode_mark(header.uuid, made);
      }
      BlockMap::SectorBits own;
      std::ranges::copy(bits.bits, own.begin());
      bits = layer_format::encode_bits(mark.uuid, 0, own);
    }
    put(fd, bytes_of(mark),
        decoded->marks_offset + number % kSlots * kSectorBytes);
    put(fd, bytes_of(bits),
        decoded->bitmap_offset + kSlots * slot_bytes(*decoded));
    must(::ftruncate(fd, static_cast<off_t>(file_bytes(*decoded))) == 0,
         "the file is made long");
  }
  look(path, image);
  return 0;
}
