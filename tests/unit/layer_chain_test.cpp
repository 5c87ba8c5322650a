// SPDX-License-Identifier: MIT
//
// Layers on layers, and what can be wrong with that.

#include <gtest/gtest.h>

#include <cerrno>

#include "layer/layer.h"
#include "layer_dir.h"

namespace ublk {
namespace {

using LayersOnLayers = LayerDir;

bool names(const Error& error, const std::string& what) {
  return error.line().find(what) != std::string::npos;
}

TEST_F(LayersOnLayers, IsOpenedFromTheTopDown) {
  write("raw", std::string(8192, 'x'));
  make("a", {.base = "raw"});
  make("b", {.size_bytes = kMiB, .block_bytes = 65536, .base = "a"});
  make("c", {.base = at("b")});
  const auto chain = LayerChain::open(at("c"), {});
  ASSERT_TRUE(chain) << chain.error().line();
  ASSERT_EQ(chain->layers.size(), 3U);
  EXPECT_FALSE(chain->layers[0].header().sealed);
  EXPECT_EQ(chain->layers[1].header().block_bytes, 65536U);
  EXPECT_EQ(chain->layers[2].header().size_bytes, 8192U);
  ASSERT_TRUE(chain->base);
  EXPECT_EQ(chain->base->path, at("raw"));
  EXPECT_EQ(error_of(LayerChain::open(at("c"), {})), EBUSY);
  EXPECT_TRUE(LayerChain::open(at("c"), {}, Layer::Use::look));
}

TEST_F(LayersOnLayers, LayersBelowAreShared) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base"});
  make("b", {.base = "base"});
  const auto a = LayerChain::open(at("a"), {});
  const auto b = LayerChain::open(at("b"), {});
  EXPECT_TRUE(a) << a.error().line();
  EXPECT_TRUE(b) << b.error().line();
}

TEST_F(LayersOnLayers, ALockIsHandedOverWithTheTop) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base"});
  const auto last = LayerChain::open(at("a"), {});
  ASSERT_TRUE(last) << last.error().line();
  const auto next =
      LayerChain::open(at("a"), {.again = last->layers[0].metadata_fd()});
  ASSERT_TRUE(next) << next.error().line();
  ASSERT_EQ(next->layers.size(), 2U);
  EXPECT_EQ(next->layers[1].file().path, at("base"));
  EXPECT_EQ(next->layers[1].header().uuid, last->layers[1].header().uuid);
}

TEST_F(LayersOnLayers, CanBeOpenedToBeReadOnly) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base"});
  const auto one = LayerChain::open(at("base"), {}, Layer::Use::below);
  EXPECT_TRUE(one) << one.error().line();
}

TEST_F(LayersOnLayers, HasSixteenLayersAtMost) {
  make("0", {.size_bytes = kMiB});
  for (int i = 1; i < 16; i++)
    make(std::to_string(i), {.base = std::to_string(i - 1)});
  EXPECT_TRUE(LayerChain::open(at("15"), {}));
  EXPECT_EQ(error_of(Layer::create({.path = at("16"), .base = "15"})), E2BIG);
  // Not made by us.
  make("16", {.size_bytes = kMiB});
  rebase("16", "15");
  const auto chain = LayerChain::open(at("16"), {});
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error().code(), E2BIG) << chain.error().line();
}

TEST_F(LayersOnLayers, IsNotACircle) {
  make("a", {.size_bytes = kMiB});
  make("b", {.base = "a"});
  make("c", {.base = "b"});
  rebase("a", "c");
  for (const char* name : {"a", "b", "c"}) {
    const auto chain = LayerChain::open(at(name), {}, Layer::Use::below);
    ASSERT_FALSE(chain);
    EXPECT_EQ(chain.error().code(), ELOOP) << chain.error().line();
  }
  make("d", {.size_bytes = kMiB});
  rebase("d", "d");
  const auto chain = LayerChain::open(at("d"), {}, Layer::Use::below);
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error().code(), ELOOP) << chain.error().line();
}

TEST_F(LayersOnLayers, RefusesAFileThatHasChanged) {
  write("raw", std::string(8192, 'x'));
  make("a", {.base = "raw"});
  const auto was = std::filesystem::last_write_time(at("raw"));
  std::filesystem::last_write_time(at("raw"), was + std::chrono::seconds(1));
  const auto touched = LayerChain::open(at("a"), {});
  ASSERT_FALSE(touched);
  EXPECT_EQ(touched.error().code(), ESTALE);
  EXPECT_TRUE(names(touched.error(), at("a")) &&
              names(touched.error(), at("raw")) &&
              names(touched.error(), "touch -d @"))
      << touched.error().line();
  EXPECT_TRUE(LayerChain::open(at("a"), {.changed_base = true}));
  std::filesystem::last_write_time(at("raw"), was);
  EXPECT_TRUE(LayerChain::open(at("a"), {}));
  write("raw", std::string(4096, 'x'));
  std::filesystem::last_write_time(at("raw"), was);
  const auto shorter = LayerChain::open(at("a"), {});
  ASSERT_FALSE(shorter);
  EXPECT_EQ(shorter.error().code(), ESTALE);
  EXPECT_TRUE(names(shorter.error(), "4096 bytes now, and had 8192"))
      << shorter.error().line();
}

TEST_F(LayersOnLayers, RefusesAnotherLayer) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base"});
  std::filesystem::rename(at("base"), at("old"));
  make("base", {.size_bytes = kMiB});
  make("b", {.base = "base"});
  const auto chain = LayerChain::open(at("a"), {});
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error().code(), ESTALE) << chain.error().line();
  EXPECT_TRUE(names(chain.error(), at("a")) && names(chain.error(), "base"));
  EXPECT_TRUE(LayerChain::open(at("a"), {.changed_base = true}));
}

TEST_F(LayersOnLayers, FinishASnapshotThatWasInterrupted) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base", .seal_base = false});
  EXPECT_EQ(error_of(LayerChain::open(at("a"), {}, Layer::Use::look)), ETXTBSY);
  {
    const auto busy = Layer::open(at("base"), {.use = Layer::Use::top});
    ASSERT_TRUE(busy);
    EXPECT_EQ(error_of(LayerChain::open(at("a"), {})), EBUSY);
  }
  EXPECT_FALSE(Layer::read_header(at("base"))->sealed);
  ASSERT_TRUE(LayerChain::open(at("a"), {}));
  EXPECT_TRUE(Layer::read_header(at("base"))->sealed);
}

TEST_F(LayersOnLayers, RefusesABaseThatCanStillChange) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base", .seal_base = false});
  {
    // As of a top that somebody has written to.
    auto top = Layer::open(at("a"), {.use = Layer::Use::top});
    ASSERT_TRUE(top);
    top->blocks().set(0, 1);
    ASSERT_TRUE(top->save());
  }
  const auto chain = LayerChain::open(at("a"), {});
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error().code(), ETXTBSY) << chain.error().line();
  EXPECT_TRUE(names(chain.error(), "is not sealed"));
}

TEST_F(LayersOnLayers, RefusesABaseThatIsGoneOrNotALayer) {
  make("base", {.size_bytes = kMiB});
  make("a", {.base = "base"});
  std::filesystem::rename(at("base"), at("old"));
  EXPECT_EQ(error_of(LayerChain::open(at("a"), {})), ENOENT);
  write("base", std::string(4096, 'x'));
  const auto chain = LayerChain::open(at("a"), {});
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error().code(), EPROTO);
  EXPECT_TRUE(names(chain.error(), at("base") + ": is not a layer"))
      << chain.error().line();
}

}  // namespace
}  // namespace ublk
