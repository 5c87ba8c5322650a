// SPDX-License-Identifier: MIT
//
// Layer files: whatever is in one, it is opened or refused, and what was opened
// says the same in all ways. The input is a byte that says which checksums are
// made right, so that what they guard is reached; a header; and what is put
// where the header says that the bitmap is, the path at its end.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "fuzz.h"
#include "layer/check.h"
#include "layer/layer_file.h"

namespace {

using namespace ublk;
using namespace ublk::layer_format;

constexpr uint8_t kRightHeader = 1;
constexpr uint8_t kRightBitmap = 2;
constexpr uint64_t kMostBlocks = 1 << 20;  // what is large is only slow

void put(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  must(write_at(fd, bytes, offset).has_value(), "the file is written");
}

void put_rest(int fd, const HeaderSector& header, uint8_t how,
              std::string_view rest) {
  const size_t path = std::min<size_t>(header.path_bytes, rest.size());
  put(fd, std::as_bytes(std::span(rest.substr(rest.size() - path))),
      header.path_offset);
  for (uint64_t i = 0; rest.size() >= kSectorBytes; i++) {
    BitmapSector sector;
    std::memcpy(&sector, rest.data(), sizeof(sector));
    BlockMap::SectorBits bits;
    std::ranges::copy(sector.bits, bits.begin());
    if (how & kRightBitmap) sector = encode_bits(header.uuid, i, bits);
    put(fd, bytes_of(sector), header.bitmap_offset + i * kSectorBytes);
    rest.remove_prefix(kSectorBytes);
  }
}

void look(const std::string& path) {
  const auto layer = Layer::open(path, {});
  const auto read = Layer::read_header(path);
  must(!layer || read.has_value(), "what can be opened has a header");
  if (!layer) {
    must(!layer.error().line().empty(), "a refusal says why");
    return;
  }
  const LayerHeader& header = layer->header();
  const BlockMap& blocks = layer->blocks();
  must(blocks.count() <= header.nr_blocks(), "blocks are of the disk");
  uint64_t counted = 0, block = 0;
  while (block < header.nr_blocks()) {
    const uint64_t run = blocks.run(block, header.nr_blocks());
    must(run > 0, "a run has a block");
    if (blocks.present(block)) counted += run;
    block += run;
  }
  must(block == header.nr_blocks() && counted == blocks.count(),
       "runs are the whole disk, and as many as are counted");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 + kSectorBytes) return 0;
  const uint8_t how = data[0];
  HeaderSector header;
  std::memcpy(&header, data + 1, sizeof(header));
  const std::string_view rest(
      reinterpret_cast<const char*>(data) + 1 + kSectorBytes,
      size - 1 - kSectorBytes);
  if (how & kRightHeader) {
    header.magic = kMagic;
    header.version = kVersion;
    const size_t path = std::min<size_t>(header.path_bytes, rest.size());
    header.path_checksum =
        path_checksum(header.uuid, rest.substr(rest.size() - path));
    put_checksum(header);
  }
  static const int fd = ::memfd_create("layer", MFD_CLOEXEC);
  static const std::string path = fmt("/proc/self/fd/{}", fd);
  must(::ftruncate(fd, 0) == 0, "the file is emptied");
  put(fd, bytes_of(header), 0);
  const auto decoded = decode_header(bytes_of(header));
  if (decoded && decoded->header.nr_blocks() > kMostBlocks) return 0;
  if (decoded) {
    must(decode_header(bytes_of(encode_header(decoded->header, decoded->path)))
             .has_value(),
         "what was written can be read");
    put_rest(fd, header, how, rest);
    must(::ftruncate(fd, static_cast<off_t>(file_bytes(decoded->header))) == 0,
         "the file is made long");
  }
  look(path);
  // Not where it would open other files.
  if (decoded && decoded->header.base.kind != LayerBase::Kind::none) return 0;
  const auto check = check_layer(path, false);
  must(check.has_value(), "it is checked");
  const bool opens = Layer::open(path, {}).has_value();
  must(opens == check->damages.empty(), "damage is what keeps it shut");
  const auto mended = check_layer(path, true);
  must(mended && (mended->left() > 0 || Layer::open(path, {}).has_value()),
       "what is mended opens");
  return 0;
}
