// SPDX-License-Identifier: MIT
#include "layer/check.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "layer/chain.h"
#include "layer/layer_file.h"

namespace ublk {

namespace {

using namespace layer_format;
using Kind = LayerDamage::Kind;

class Checker {
 public:
  Checker(const Backing& file, UniqueFd fd, bool repair)
      : file_(file), fd_(std::move(fd)), repair_(repair) {}

  Result<LayerCheck> run() {
    auto read = read_header(fd_.get(), file_.path);
    if (!read) {
      if (read.error().code() != EPROTO)
        return std::unexpected(std::move(read).error());
      const bool of_path = header_alone().has_value();
      found({.kind = of_path ? Kind::path : Kind::header,
             .bytes = kSectorBytes,
             .what = read.error().message()});
      return std::move(out_);
    }
    out_.header = read->header;
    TRY(bitmap());
    TRY(length());
    below();
    if (repair_ && std::ranges::any_of(out_.damages, &LayerDamage::mended))
      TRY(sync_data(fd_.get()));
    return std::move(out_);
  }

 private:
  void found(LayerDamage damage) { out_.damages.push_back(std::move(damage)); }

  Result<Decoded> header_alone() {
    std::array<std::byte, kSectorBytes> bytes{};
    TRY(read_at(fd_.get(), bytes, 0));
    return decode_header(bytes);
  }

  Result<void> bitmap() {
    const uint64_t from = out_.header->bitmap_offset;
    const uint64_t most = BlockMap::sectors_for(out_.header->nr_blocks());
    // What ends within the bitmap has no data either: length() says so.
    if (file_.size_bytes < from + most * kSectorBytes) return {};
    return for_each_sector(fd_.get(), bitmap_of(*out_.header),
                           [this](uint64_t number, SectorFault fault,
                                  const BlockMap::SectorBits& bits) {
                             return sector(number, fault, bits);
                           });
  }

  Result<void> sector(uint64_t number, SectorFault fault,
                      const BlockMap::SectorBits& bits) {
    const LayerHeader& header = *out_.header;
    const uint64_t offset = header.bitmap_offset + number * kSectorBytes;
    out_.bitmap_sectors++;
    if (fault != SectorFault::none) {
      found({.kind = fault == SectorFault::checksum ? Kind::bitmap_checksum
                                                    : Kind::bitmap_place,
             .offset = offset,
             .bytes = kSectorBytes,
             .what = fault_text(header, number, fault)});
      return {};
    }
    // Only the bits that a block has.
    std::vector<uint64_t> words(BlockMap::words_for(header.nr_blocks()) -
                                number * BlockMap::kSectorWords);
    words.resize(std::min(words.size(), size_t{BlockMap::kSectorWords}));
    const uint64_t first = number * BlockMap::kSectorBits;
    uint64_t unsaved = 0;
    BlockMap blocks(std::min(header.nr_blocks() - first, BlockMap::kSectorBits),
                    words, std::span(&unsaved, 1));
    blocks.load_saved(0, bits);
    out_.present_blocks += blocks.count();
    TRY(look_for_lost(first, blocks));
    if (!has_stray_bits(header, number, bits)) return {};
    LayerDamage damage{.kind = Kind::stray_bits,
                       .offset = offset,
                       .bytes = kSectorBytes,
                       .what = fmt("bitmap sector {} at offset {}: has blocks "
                                   "beyond the disk's end",
                                   number, offset),
                       .mendable = !header.read_only};
    if (repair_ && damage.mendable) {
      const auto good = encode_bits(header.uuid, number, blocks.sector_bits(0));
      TRY(write_at(fd_.get(), bytes_of(good), offset));
      damage.mended = true;
    }
    found(std::move(damage));
    return {};
  }

  // Blocks whose data is, in part or all, beyond the end of the file.
  Result<void> look_for_lost(uint64_t first, const BlockMap& blocks) {
    const LayerHeader& header = *out_.header;
    if (file_.size_bytes >= file_bytes(header)) return {};
    const uint64_t there = file_.size_bytes > header.data_offset
                               ? file_.size_bytes - header.data_offset
                               : 0;
    const uint64_t whole = there / header.block_bytes;
    for (uint64_t i = whole > first ? whole - first : 0;
         i < blocks.nr_blocks();) {
      const uint64_t run = blocks.run(i, blocks.nr_blocks());
      if (blocks.present(i)) {
        lost_ += run;
        if (lost_ == run)
          first_lost_ = header.data_offset + (first + i) * header.block_bytes;
      }
      i += run;
    }
    return {};
  }

  Result<void> length() {
    const LayerHeader& header = *out_.header;
    const uint64_t wanted = file_bytes(header);
    if (file_.size_bytes >= wanted) return {};
    const bool known =
        file_.size_bytes >=
            header.bitmap_offset +
                BlockMap::sectors_for(header.nr_blocks()) * kSectorBytes &&
        std::ranges::none_of(out_.damages, [](const LayerDamage& damage) {
          return damage.kind == Kind::bitmap_checksum ||
                 damage.kind == Kind::bitmap_place;
        });
    if (lost_)
      found({.kind = Kind::lost_blocks,
             .offset = first_lost_,
             .bytes = lost_ * header.block_bytes,
             .what = fmt("{} present blocks from offset {} on are beyond the "
                         "end of the file",
                         lost_, first_lost_)});
    LayerDamage damage{
        .kind = Kind::cut_short,
        .offset = file_.size_bytes,
        .bytes = wanted - file_.size_bytes,
        .what = fmt("the file is cut short: it has {} bytes of {}",
                    file_.size_bytes, wanted),
        // What was there, were holes.
        .mendable = known && !lost_ && !file_.is_block && !header.read_only};
    if (repair_ && damage.mendable) {
      if (::ftruncate(fd_.get(), static_cast<off_t>(wanted)) != 0)
        return fail_sys(errno, "making it {} bytes long", wanted);
      damage.mended = true;
    }
    found(std::move(damage));
    return {};
  }

  void below() {
    const auto chain = layer_chain_headers(file_.path);
    if (chain) return;
    const Error& error = chain.error();
    LayerDamage damage{.kind = Kind::base_missing, .what = error.message()};
    if (error.code() == ELOOP || error.code() == E2BIG)
      damage.kind = Kind::chain;
    else if (error.code() == ESTALE)
      damage.kind = Kind::base_changed;
    else if (error.code() == ETXTBSY)
      damage.kind = Kind::base_unsealed;
    found(std::move(damage));
  }

  const Backing& file_;
  UniqueFd fd_;
  bool repair_;
  LayerCheck out_{};
  uint64_t lost_ = 0;
  uint64_t first_lost_ = 0;
};

}  // namespace

const char* damage_name(LayerDamage::Kind kind) {
  switch (kind) {
    case Kind::header:
      return "header";
    case Kind::path:
      return "path";
    case Kind::bitmap_checksum:
      return "bitmap_checksum";
    case Kind::bitmap_place:
      return "bitmap_place";
    case Kind::stray_bits:
      return "stray_bits";
    case Kind::cut_short:
      return "cut_short";
    case Kind::lost_blocks:
      return "lost_blocks";
    case Kind::base_missing:
      return "base_missing";
    case Kind::base_changed:
      return "base_changed";
    case Kind::base_unsealed:
      return "base_unsealed";
    case Kind::chain:
      return "chain";
  }
  std::unreachable();
}

size_t LayerCheck::left() const {
  return static_cast<size_t>(
      std::ranges::count(damages, false, &LayerDamage::mended));
}

Result<LayerCheck> check_layer(const std::string& path, bool repair) {
  const Backing file =
      TRY(Backing::open(path, {.read_only = !repair, .buffered = true}));
  UniqueFd fd = TRY_IN(path, open_buffered(file.fd.get(), !repair));
  TRY(lock(fd.get(), path, repair ? Layer::Use::top : Layer::Use::look));
  auto checked = Checker(file, std::move(fd), repair).run();
  if (!checked) return std::unexpected(std::move(checked).error().in(path));
  return checked;
}

}  // namespace ublk
