// SPDX-License-Identifier: MIT
//
// Which part of a disk is where.

#include <gtest/gtest.h>

#include <cerrno>

#include "layer/extents.h"
#include "layer_dir.h"

namespace ublk {
namespace {

class LayerExtents : public LayerDir {
 protected:
  // Data of whole blocks.
  void put(Layer& layer, uint64_t first, uint64_t count) {
    const std::string data(count * layer.header().block_bytes, 'd');
    EXPECT_EQ(::pwrite(layer.metadata_fd(), data.data(), data.size(),
                       static_cast<off_t>(layer.data_offset() +
                                          first * layer.header().block_bytes)),
              static_cast<ssize_t>(data.size()));
    layer.blocks().set(first, count);
    EXPECT_TRUE(layer.save());
  }
  // In blocks of 4 KiB: "start+length depth", then what it is.
  std::vector<std::string> extents(const std::string& name) {
    const auto chain = LayerChain::open(at(name), {}, Layer::Use::look);
    EXPECT_TRUE(chain) << chain.error().line();
    std::vector<std::string> all;
    EXPECT_TRUE(
        for_each_extent(*chain, [&](const LayerExtent& e) -> Result<void> {
          all.push_back(fmt("{}+{} {} {}", e.start / 4096, e.length / 4096,
                            e.depth,
                            !e.present ? "none"
                            : e.zero   ? "zero"
                                       : fmt("at {}", e.offset / 4096)));
          return {};
        }));
    return all;
  }
  using All = std::vector<std::string>;
  // In blocks: "start+length", and whether it is zeroes.
  All changes(const std::string& name, const std::string& since) {
    const auto chain = LayerChain::open(at(name), {}, Layer::Use::look);
    const auto depth = depth_of_layer(*chain, at(since));
    if (!depth) return {depth.error().code_name()};
    All all;
    EXPECT_TRUE(for_each_change(
        *chain, *depth, [&](const LayerChange& c) -> Result<void> {
          all.push_back(fmt("{}+{} {}", c.start / kBlock, c.length / kBlock,
                            c.zero ? "zero" : "data"));
          return {};
        }));
    return all;
  }
};

TEST_F(LayerExtents, OfAnEmptyLayerAreOfNobody) {
  make("a", {.size_bytes = kMiB});
  EXPECT_EQ(extents("a"), All{"0+256 0 none"});
}

TEST_F(LayerExtents, AreOfTheTopmostLayerThatHasThem) {
  write("raw", std::string(40 * kBlock, 'x'));
  make("a", {.size_bytes = kMiB, .base = "raw"});
  {
    Layer a = top("a");
    put(a, 2, 4);
    put(a, 50, 1);
  }
  make("b", {.base = "a"});
  {
    Layer b = top("b");
    put(b, 4, 4);
    b.blocks().set(8, 1);  // a hole: discarded
    EXPECT_TRUE(b.save());
  }
  EXPECT_EQ(extents("b"), (All{"0+2 2 at 0", "2+2 1 at 258", "4+4 0 at 260",
                               "8+1 0 zero", "9+31 2 at 9", "40+10 2 none",
                               "50+1 1 at 306", "51+205 2 none"}));
}

TEST_F(LayerExtents, BeyondTheEndOfALayerBelowAreZeroes) {
  write("raw", std::string(40 * kBlock, 'x'));
  make("a", {.size_bytes = 10 * kBlock, .base = "raw"});
  make("b", {.size_bytes = 20 * kBlock, .base = "a"});
  EXPECT_EQ(extents("b"), (All{"0+10 2 at 0", "10+10 2 none"}))
      << "what the file has there is not of the layer's disk";
}

TEST_F(LayerExtents, KnowBlocksOfOtherSizes) {
  make("a", {.size_bytes = 24 * kBlock, .block_bytes = 4096});
  {
    Layer a = top("a");
    put(a, 1, 1);
    put(a, 20, 4);
  }
  make("b", {.block_bytes = 65536, .base = "a"});
  {
    Layer b = top("b");
    // The last block, which the disk's end cuts short.
    b.blocks().set(1, 1);
    EXPECT_TRUE(b.save());
  }
  EXPECT_EQ(extents("b"),
            (All{"0+1 1 none", "1+1 1 at 257", "2+14 1 none", "16+8 0 zero"}));
}

TEST_F(LayerExtents, EndWithAFailure) {
  make("a", {.size_bytes = kMiB});
  const auto chain = LayerChain::open(at("a"), {}, Layer::Use::look);
  EXPECT_EQ(error_of(for_each_extent(*chain,
                                     [](const LayerExtent&) -> Result<void> {
                                       return fail(EPIPE, "enough");
                                     })),
            EPIPE);
}

TEST_F(LayerExtents, ChangesAreWhatTheLayersAboveHave) {
  write("raw", std::string(40 * kBlock, 'x'));
  make("a", {.size_bytes = kMiB, .base = "raw"});
  {
    Layer a = top("a");
    put(a, 2, 4);
    put(a, 50, 1);
  }
  make("b", {.base = "a"});
  {
    Layer b = top("b");
    put(b, 4, 4);
    b.blocks().set(8, 1);  // a hole: discarded
    EXPECT_TRUE(b.save());
  }
  make("c", {.base = "b"});
  {
    Layer c = top("c");
    put(c, 7, 1);
    put(c, 9, 1);
    put(c, 200, 2);
  }
  EXPECT_EQ(changes("c", "b"), (All{"7+1 data", "9+1 data", "200+2 data"}));
  EXPECT_EQ(changes("c", "a"),
            (All{"4+4 data", "8+1 zero", "9+1 data", "200+2 data"}));
  EXPECT_EQ(changes("c", "c"), All{});
  make("d", {.size_bytes = kMiB});
  EXPECT_EQ(changes("c", "d"), All{"ENOENT"}) << "it is on none of that name";
}

TEST_F(LayerExtents, OfALongerDiskTheRestIsAChange) {
  make("a", {.size_bytes = kMiB});
  make("b", {.size_bytes = 2 * kMiB, .base = "a"});
  {
    Layer b = top("b");
    put(b, 300, 1);
  }
  EXPECT_EQ(changes("b", "a"),
            (All{"256+44 zero", "300+1 data", "301+211 zero"}));
}

}  // namespace
}  // namespace ublk
