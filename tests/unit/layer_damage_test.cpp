// SPDX-License-Identifier: MIT
//
// Layer files that are damaged, or made to do harm.

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <functional>

#include "layer/check.h"
#include "layer_dir.h"
#include "sys/sizes.h"

namespace ublk {
namespace {

using namespace layer_format;
using Kind = LayerDamage::Kind;

class LayerDamaged : public LayerDir {
 protected:
  std::vector<Kind> kinds(const std::string& name, bool repair = false) {
    const auto check = check_layer(at(name), repair);
    EXPECT_TRUE(check) << check.error().line();
    std::vector<Kind> found;
    if (check)
      for (const LayerDamage& damage : check->damages) {
        found.push_back(damage.kind);
        EXPECT_FALSE(damage.what.empty());
      }
    return found;
  }
  // Of 100 MiB, with blocks in its first two sectors.
  void with_blocks(const std::string& name) {
    make(name, {.size_bytes = 100 * kMiB});
    Layer layer = top(name);
    layer.blocks().set(10, 20);
    layer.blocks().set(5000, 1);
    ASSERT_TRUE(layer.save());
  }
  HeaderSector header_of(const std::string& name) {
    HeaderSector sector;
    const std::string bytes = read_part(name, 0, 512);
    std::memcpy(&sector, bytes.data(), sizeof(sector));
    return sector;
  }
  std::string read_part(const std::string& name, uint64_t offset, size_t n) {
    std::ifstream in(at(name), std::ios::binary);
    in.seekg(static_cast<std::streamoff>(offset));
    std::string bytes(n, '\0');
    in.read(bytes.data(), static_cast<std::streamsize>(n));
    return bytes;
  }
  void flip(const std::string& name, uint64_t offset) {
    std::string byte = read_part(name, offset, 1);
    byte[0] = static_cast<char>(byte[0] ^ 0x10);
    patch(name, offset, byte);
  }

  static constexpr uint64_t kSector = 512;
  static constexpr uint64_t kBits = kBitmapOffset;
};

TEST_F(LayerDamaged, EveryByteOfTheHeaderCounts) {
  make("a", {.size_bytes = kMiB});
  for (uint64_t offset = 0; offset < kSector; offset++) {
    flip("a", offset);
    const auto opened = Layer::open(at("a"), {});
    ASSERT_FALSE(opened) << "byte " << offset;
    EXPECT_EQ(opened.error().code(), EPROTO);
    EXPECT_EQ(kinds("a"), std::vector{Kind::header}) << "byte " << offset;
    flip("a", offset);
  }
  EXPECT_TRUE(Layer::open(at("a"), {}));
}

TEST_F(LayerDamaged, EveryByteOfThePathCounts) {
  write("raw", std::string(4096, 'x'));
  make("a", {.base = "raw"});
  for (uint64_t i = 0; i < 3; i++) {
    flip("a", kPathOffset + i);
    EXPECT_EQ(error_of(Layer::open(at("a"), {})), EPROTO);
    EXPECT_EQ(kinds("a"), std::vector{Kind::path});
    flip("a", kPathOffset + i);
  }
  EXPECT_EQ(kinds("a"), std::vector<Kind>());
}

TEST_F(LayerDamaged, EveryByteOfAWrittenBitmapSectorCounts) {
  with_blocks("a");
  for (uint64_t i = 0; i < kSector; i++) {
    flip("a", kBits + kSector + i);
    const auto opened = Layer::open(at("a"), {});
    ASSERT_FALSE(opened) << "byte " << i;
    EXPECT_EQ(opened.error().code(), EPROTO);
    EXPECT_TRUE(opened.error().message().contains(
        "bitmap sector 1 at offset 12800: the checksum is wrong"))
        << opened.error().line();
    flip("a", kBits + kSector + i);
  }
  EXPECT_EQ(kinds("a"), std::vector<Kind>());
  flip("a", kBits + kSector);
  EXPECT_EQ(kinds("a", true), std::vector{Kind::bitmap_checksum});
  EXPECT_EQ(kinds("a"), std::vector{Kind::bitmap_checksum})
      << "nobody knows which blocks it had";
}

TEST_F(LayerDamaged, ASectorThatBelongsElsewhereIsFound) {
  with_blocks("a");
  with_blocks("b");
  const std::string first = read_part("a", kBits, kSector);
  patch("a", kBits + kSector, first);
  EXPECT_EQ(error_of(Layer::open(at("a"), {})), EPROTO);
  EXPECT_EQ(kinds("a", true), std::vector{Kind::bitmap_place});
  patch("b", kBits, first);
  EXPECT_EQ(error_of(Layer::open(at("b"), {})), EPROTO);
  EXPECT_EQ(kinds("b", true), std::vector{Kind::bitmap_checksum})
      << "it is another layer's";
}

TEST_F(LayerDamaged, ASectorOfZeroesHasNoBlocks) {
  with_blocks("a");
  patch("a", kBits + kSector, std::string(kSector, '\0'));
  const auto opened = Layer::open(at("a"), {});
  ASSERT_TRUE(opened) << opened.error().line();
  EXPECT_EQ(opened->blocks().count(), 20U);
}

TEST_F(LayerDamaged, BlocksBeyondTheEndAreRemoved) {
  with_blocks("a");
  const Uuid uuid = Layer::read_header(at("a"))->uuid;
  BlockMap::SectorBits bits{};
  bits[0] = 1;
  bits[22] = 1;  // block 25600, of 25600
  patch("a", kBits + 6 * kSector, text_of(encode_bits(uuid, 6, bits)));
  const auto opened = Layer::open(at("a"), {});
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), EPROTO);
  EXPECT_EQ(kinds("a"), std::vector{Kind::stray_bits});
  const auto mended = check_layer(at("a"), true);
  ASSERT_TRUE(mended);
  EXPECT_EQ(mended->left(), 0U);
  EXPECT_EQ(mended->present_blocks, 22U);
  EXPECT_EQ(kinds("a"), std::vector<Kind>());
  EXPECT_EQ(Layer::open(at("a"), {})->blocks().count(), 22U);
}

TEST_F(LayerDamaged, AFileThatIsCutShortIsMendedIfNothingIsLost) {
  with_blocks("a");
  // Behind block 5000.
  const uint64_t end = kMiB + 5001 * kBlock;
  std::filesystem::resize_file(at("a"), end);
  EXPECT_EQ(error_of(Layer::open(at("a"), {})), EPROTO);
  EXPECT_EQ(kinds("a"), std::vector{Kind::cut_short});
  EXPECT_EQ(check_layer(at("a"), true)->left(), 0U);
  EXPECT_EQ(kinds("a"), std::vector<Kind>());
  EXPECT_EQ(std::filesystem::file_size(at("a")), 101U * kMiB);

  std::filesystem::resize_file(at("a"), 101 * kMiB - 1);
  EXPECT_EQ(error_of(Layer::open(at("a"), {})), EPROTO);

  std::filesystem::resize_file(at("a"), end - 1);
  const std::vector lost{Kind::lost_blocks, Kind::cut_short};
  EXPECT_EQ(kinds("a", true), lost);
  EXPECT_EQ(kinds("a"), lost) << "what was there cannot be known";
  // In the middle of the bitmap, where none is set; and of the header.
  for (const uint64_t bytes : {kBits + 700, uint64_t{5000}}) {
    std::filesystem::resize_file(at("a"), bytes);
    EXPECT_EQ(kinds("a", true), std::vector{Kind::cut_short}) << bytes;
    EXPECT_EQ(check_layer(at("a"), true)->left(), 1U) << bytes;
  }
  for (const uint64_t bytes : {100, 0}) {
    std::filesystem::resize_file(at("a"), bytes);
    EXPECT_EQ(kinds("a", true), std::vector{Kind::header}) << bytes;
  }
}

TEST_F(LayerDamaged, WhatIsBelowIsLookedAt) {
  write("raw", std::string(8192, 'x'));
  make("a", {.base = "raw"});
  make("b", {.base = "a"});
  EXPECT_EQ(kinds("b"), std::vector<Kind>());
  write("raw", std::string(4096, 'x'));
  EXPECT_EQ(kinds("b"), std::vector{Kind::base_changed});
  std::filesystem::remove(at("raw"));
  EXPECT_EQ(kinds("b"), std::vector{Kind::base_missing});
  rebase("a", "b");
  EXPECT_EQ(kinds("a"), std::vector{Kind::chain});
  make("c", {.size_bytes = kMiB});
  make("d", {.base = "c", .seal_base = false});
  EXPECT_EQ(kinds("d"), std::vector{Kind::base_unsealed});
}

TEST_F(LayerDamaged, NothingIsRepairedWhileOthersHaveIt) {
  with_blocks("a");
  const Layer used = top("a");
  EXPECT_EQ(kinds("a"), std::vector<Kind>()) << "to look is always possible";
  EXPECT_EQ(error_of(check_layer(at("a"), true)), EBUSY);
}

struct Hostile {
  const char* what;
  std::function<void(HeaderSector&)> change;
  const char* says = ": header: ";
};

TEST_F(LayerDamaged, AHeaderThatIsWrongOnPurposeIsRefused) {
  write("raw", std::string(kMiB, 'x'));
  make("a", {.base = "raw"});
  const HeaderSector good = header_of("a");
  const Hostile cases[] = {
      {"version", [](auto& h) { h.version = 2; }, "version 2"},
      {"incompatible", [](auto& h) { h.incompatible = uint64_t{1} << 63; }},
      {"size 0", [](auto& h) { h.size_bytes = 0; }},
      {"size not of sectors", [](auto& h) { h.size_bytes = 4097; }},
      {"size all bits", [](auto& h) { h.size_bytes = ~uint64_t{0}; }},
      {"size wraps", [](auto& h) { h.size_bytes = ~uint64_t{511}; }},
      {"size too large", [](auto& h) { h.size_bytes = (64ULL << 40) + 512; }},
      {"size for the bitmap", [](auto& h) { h.size_bytes = 64ULL << 40; }},
      {"block 0", [](auto& h) { h.block_bytes = 0; }},
      {"block no power", [](auto& h) { h.block_bytes = 12288; }},
      {"block small", [](auto& h) { h.block_bytes = 2048; }},
      {"block large", [](auto& h) { h.block_bytes = 2 << 20; }},
      {"base kind", [](auto& h) { h.base_kind = 3; }},
      {"no base, a path", [](auto& h) { h.base_kind = 0; }},
      {"a base, no path", [](auto& h) { h.path_bytes = 0; }},
      {"path long", [](auto& h) { h.path_bytes = 4096; }},
      {"path in the header", [](auto& h) { h.path_offset = 508; }},
      {"path in the bitmap", [](auto& h) { h.path_offset = 12287; }},
      {"path behind", [](auto& h) { h.path_offset = 1 << 20; }},
      {"path wraps", [](auto& h) { h.path_offset = ~uint64_t{1}; }},
      {"bitmap in the header", [](auto& h) { h.bitmap_offset = 0; }},
      {"bitmap not aligned", [](auto& h) { h.bitmap_offset = 12800; }},
      {"bitmap behind", [](auto& h) { h.bitmap_offset = 2 << 20; }},
      {"bitmap in the data", [](auto& h) { h.bitmap_offset = 1 << 20; }},
      {"bitmap wraps", [](auto& h) { h.bitmap_offset = ~uint64_t{4095}; }},
      {"data not aligned", [](auto& h) { h.data_offset = 4096 * 300; }},
      {"data 0", [](auto& h) { h.data_offset = 0; }},
      {"data far", [](auto& h) { h.data_offset = uint64_t{1} << 41; }},
      {"data wraps", [](auto& h) { h.data_offset = ~uint64_t{0xfffff}; }},
      {"path's checksum", [](auto& h) { h.path_checksum = 1; }, "path: the"},
      {"uuid, so the path's checksum", [](auto& h) { h.uuid[0] ^= 1; },
       "path: the"},
  };
  for (const auto& [what, change, says] : cases) {
    HeaderSector bad = good;
    change(bad);
    put_checksum(bad);
    patch("a", 0, text_of(bad));
    for (const auto use : {Layer::Use::look, Layer::Use::top}) {
      const auto opened = Layer::open(at("a"), {.use = use});
      ASSERT_FALSE(opened) << what;
      EXPECT_EQ(opened.error().code(), EPROTO) << opened.error().line();
      EXPECT_TRUE(opened.error().message().contains(says))
          << what << ": " << opened.error().line();
    }
    EXPECT_EQ(kinds("a").size(), 1U) << what;
  }
  patch("a", 0, text_of(good));
  EXPECT_TRUE(Layer::open(at("a"), {.use = Layer::Use::top}));
}

TEST_F(LayerDamaged, APathWithANulIsRefused) {
  write("raw", std::string(4096, 'x'));
  make("a", {.base = "raw"});
  put_header("a", *Layer::read_header(at("a")), std::string("r\0w", 3));
  EXPECT_EQ(error_of(Layer::open(at("a"), {})), EPROTO);
  EXPECT_EQ(kinds("a"), std::vector{Kind::path});
}

TEST_F(LayerDamaged, WhatALaterProgramHasPutInIsKept) {
  make("a", {.size_bytes = kMiB});
  HeaderSector newer = header_of("a");
  newer.compatible = 7;
  newer.reserved[5] = std::byte{9};
  put_checksum(newer);
  patch("a", 0, text_of(newer));
  ASSERT_TRUE(top("a").seal());
  const HeaderSector now = header_of("a");
  EXPECT_EQ(now.compatible, 7U);
  EXPECT_EQ(now.reserved[5], std::byte{9});
  EXPECT_TRUE(Layer::read_header(at("a"))->sealed);
}

TEST_F(LayerDamaged, WhatCanOnlyBeReadIsNotWritten) {
  make("a", {.size_bytes = kMiB});
  HeaderSector newer = header_of("a");
  newer.read_only = 2;
  put_checksum(newer);
  patch("a", 0, text_of(newer));
  EXPECT_TRUE(Layer::open(at("a"), {}));
  EXPECT_TRUE(Layer::open(at("a"), {.use = Layer::Use::below}));
  EXPECT_EQ(error_of(Layer::open(at("a"), {.use = Layer::Use::top})), EROFS);
  EXPECT_EQ(error_of(Layer::create({.path = at("b"), .base = "a"})), EROFS);
}

TEST_F(LayerDamaged, TheLargestDiskIsOpened) {
  const auto made = Layer::create(
      {.path = at("a"), .size_bytes = 8ULL << 40, .block_bytes = 1 << 20});
  if (!made && made.error().code() == EFBIG)
    GTEST_SKIP() << "the file system has no files of 8 TiB";
  ASSERT_TRUE(made) << made.error().line();
  Layer layer = top("a");
  layer.blocks().set(layer.blocks().nr_blocks() - 1, 1);
  ASSERT_TRUE(layer.save());
  EXPECT_EQ(Layer::open(at("a"), {})->blocks().count(), 1U);
}

}  // namespace
}  // namespace ublk
