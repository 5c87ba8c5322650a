// SPDX-License-Identifier: MIT
#include "layer/layer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>

#include "layer_dir.h"

namespace ublk {
namespace {

using LayerCreate = LayerDir;
using LayerOpen = LayerDir;
using LayerSave = LayerDir;

TEST_F(LayerCreate, MakesAnEmptyLayerThatIsOpenedAgain) {
  const auto made = Layer::create({.path = at("a"), .size_bytes = 10 * kMiB});
  ASSERT_TRUE(made) << made.error().line();
  struct stat st{};
  ASSERT_EQ(::stat(at("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, 11 * kMiB) << "one of them is for header and bitmap";
  EXPECT_LE(st.st_blocks * 512, 16384) << "nothing else is written";
  const Layer layer = top("a");
  EXPECT_EQ(layer.header().uuid, made->uuid);
  EXPECT_EQ(layer.header().size_bytes, 10U * kMiB);
  EXPECT_EQ(layer.header().block_bytes, 4096U);
  EXPECT_EQ(layer.header().base.kind, LayerBase::Kind::none);
  EXPECT_FALSE(layer.header().sealed);
  EXPECT_EQ(layer.data_offset(), 1U * kMiB);
  EXPECT_EQ(layer.blocks().nr_blocks(), 2560U);
  EXPECT_EQ(layer.blocks().count(), 0U);
  EXPECT_FALSE(layer.blocks().unsaved());
}

TEST_F(LayerCreate, TouchesNoFileThatIsThere) {
  write("a", "mine");
  const auto made = Layer::create({.path = at("a"), .size_bytes = kMiB});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), EEXIST);
  EXPECT_EQ(read("a"), "mine");
}

TEST_F(LayerCreate, LeavesNothingIfItFails) {
  make("base", {.size_bytes = kMiB});
  const Layer used = top("base");
  EXPECT_EQ(error_of(Layer::create({.path = at("a"), .base = "base"})), EBUSY);
  EXPECT_FALSE(exists("a"));
}

TEST_F(LayerCreate, LeavesNothingIfThereIsNoRoom) {
  // Not by a full disk, but by a limit on the length of files.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit little{.rlim_cur = 1 << 30, .rlim_max = before.rlim_max};
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
  const auto made =
      Layer::create({.path = at("a"), .size_bytes = uint64_t{1} << 40});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(error_of(made), EFBIG);
  EXPECT_FALSE(exists("a"));
}

TEST_F(LayerCreate, RefusesSizesThatCannotBe) {
  const Layer::CreateOptions cases[] = {
      {.path = at("a")},
      {.path = at("a"), .size_bytes = 100},
      {.path = at("a"), .size_bytes = kMostLayerBytes + 512},
      {.path = at("a"), .size_bytes = kMiB, .block_bytes = 2048},
      {.path = at("a"), .size_bytes = kMiB, .block_bytes = 2 << 20},
      {.path = at("a"), .size_bytes = kMiB, .block_bytes = 5000},
      {.path = at("a"), .size_bytes = kMiB, .block_bytes = 0},
  };
  for (const auto& options : cases)
    EXPECT_EQ(error_of(Layer::create(options)), EINVAL)
        << options.size_bytes << " " << options.block_bytes;
  EXPECT_FALSE(exists("a"));
}

TEST_F(LayerCreate, TakesTheSizeOfTheBaseAndRoundsItUp) {
  write("raw", std::string(1000, 'x'));
  const LayerHeader header = make("a", {.base = "raw"});
  EXPECT_EQ(header.size_bytes, 1024U);
  EXPECT_EQ(header.base.kind, LayerBase::Kind::file);
  EXPECT_EQ(header.base.size_bytes, 1000U);
  EXPECT_EQ(header.base.stored_path, "raw");
  EXPECT_EQ(header.base.path, at("raw"));
}

TEST_F(LayerCreate, SealsTheLayerThatItIsOn) {
  make("base", {.size_bytes = kMiB});
  const LayerHeader header = make("a", {.base = "base"});
  EXPECT_EQ(header.base.kind, LayerBase::Kind::layer);
  EXPECT_EQ(header.size_bytes, 1U * kMiB);
  EXPECT_TRUE(Layer::read_header(at("base"))->sealed);
  EXPECT_EQ(error_of(Layer::open(at("base"), {.use = Layer::Use::top})), EROFS);
  EXPECT_EQ(header.base.uuid, Layer::read_header(at("base"))->uuid);
}

TEST_F(LayerCreate, UponAnOpenTopLeavesItToTheCallerToSealThat) {
  make("base", {.size_bytes = kMiB});
  Layer old = top("base");
  old.blocks().set(3, 1);
  make("a", {.base = "base", .seal_base = false});
  EXPECT_EQ(error_of(LayerChain::open(at("a"), {})), EBUSY)
      << "it is still written";
  ASSERT_TRUE(old.seal());
  const auto chain = LayerChain::open(at("a"), {});
  ASSERT_TRUE(chain) << chain.error().line();
  EXPECT_TRUE(chain->layers[1].blocks().present(3)) << "sealing saves";
}

TEST_F(LayerCreate, TakesAFileThatBeginsLikeALayerForWhatItIsSaidToBe) {
  make("b", {.size_bytes = kMiB});
  const auto header =
      make("a", {.base = "b", .base_kind = LayerBase::Kind::file});
  EXPECT_EQ(header.base.kind, LayerBase::Kind::file);
  EXPECT_EQ(header.size_bytes, 2U * kMiB) << "all of the file";
  EXPECT_FALSE(Layer::read_header(at("b"))->sealed);
  write("raw", std::string(4096, 'x'));
  EXPECT_EQ(error_of(Layer::create({.path = at("c"),
                                    .base = "raw",
                                    .base_kind = LayerBase::Kind::layer})),
            EPROTO);
}

TEST_F(LayerCreate, LooksForTheBaseFromTheLayersDirectory) {
  std::filesystem::create_directory(at("below"));
  write("below/raw", std::string(4096, 'x'));
  make("below/a", {.base = "raw"});
  make("b", {.base = at("below/raw")});
  std::filesystem::rename(at("below"), at("moved"));
  EXPECT_TRUE(LayerChain::open(at("moved/a"), {})) << "both have moved";
  EXPECT_EQ(error_of(LayerChain::open(at("b"), {})), ENOENT);
}

TEST_F(LayerCreate, ThatDirectoryIsTheOneWhereTheFileReallyIs) {
  std::filesystem::create_directories(at("real/deep"));
  std::filesystem::create_directory_symlink(at("real/deep"), at("link"));
  write("real/raw", std::string(4096, 'x'));
  make("link/a", {.base = "../raw"});
  EXPECT_TRUE(LayerChain::open(at("link/a"), {}));
  EXPECT_TRUE(LayerChain::open(at("real/deep/a"), {}));
}

TEST_F(LayerOpen, KnowsWhatIsALayer) {
  make("a", {.size_bytes = kMiB});
  write("short", "UBLKLA");
  write("raw", std::string(4096, 'x'));
  EXPECT_TRUE(*Layer::is_layer(at("a")));
  EXPECT_FALSE(*Layer::is_layer(at("short")));
  EXPECT_FALSE(*Layer::is_layer(at("raw")));
  EXPECT_EQ(error_of(Layer::is_layer(at("none"))), ENOENT);
  EXPECT_EQ(error_of(Layer::is_layer(at(""))), EISDIR);
}

TEST_F(LayerOpen, OneTopOrManyBelow) {
  make("a", {.size_bytes = kMiB});
  {
    const Layer first = top("a");
    const auto second = Layer::open(at("a"), {.use = Layer::Use::top});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), EBUSY);
    EXPECT_NE(second.error().line().find("is in use by this process"),
              std::string::npos)
        << second.error().line();
    EXPECT_EQ(error_of(Layer::open(at("a"), {.use = Layer::Use::below})),
              EBUSY);
    EXPECT_TRUE(Layer::open(at("a"), {})) << "a look needs no lock";
  }
  const auto one = Layer::open(at("a"), {.use = Layer::Use::below});
  const auto other = Layer::open(at("a"), {.use = Layer::Use::below});
  EXPECT_TRUE(one);
  EXPECT_TRUE(other);
  const auto third = Layer::open(at("a"), {.use = Layer::Use::top});
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code(), EBUSY);
  EXPECT_NE(third.error().line().find("as the base of another layer"),
            std::string::npos)
      << third.error().line();
}

TEST_F(LayerOpen, ASealedLayerHasTheLockOfABase) {
  make("a", {.size_bytes = kMiB});
  Layer layer = top("a");
  ASSERT_TRUE(layer.seal());
  EXPECT_TRUE(Layer::open(at("a"), {.use = Layer::Use::below}));
  EXPECT_EQ(error_of(layer.save()), EROFS);
  EXPECT_EQ(error_of(layer.seal()), EROFS);
}

TEST_F(LayerOpen, ReadsAndWritesDataWhereItBelongs) {
  make("a", {.size_bytes = kMiB, .block_bytes = 65536});
  Layer layer = top("a", {.buffered = true});
  const std::string text = "data";
  ASSERT_EQ(::pwrite(layer.file().fd.get(), text.data(), text.size(),
                     static_cast<off_t>(layer.data_offset() + 65536)),
            4);
  layer.blocks().set(1, 1);
  ASSERT_TRUE(layer.save());
  EXPECT_EQ(read("a").substr(kMiB + 65536, 4), text);
}

TEST_F(LayerSave, IsThereAfterwards) {
  make("a", {.size_bytes = 100 * kMiB});
  {
    Layer layer = top("a");
    layer.blocks().set(0, 1);
    layer.blocks().set(4031, 2);   // the end of a sector, and the next one
    layer.blocks().set(25599, 5);  // the last one, and beyond
    EXPECT_TRUE(layer.blocks().unsaved());
    ASSERT_TRUE(layer.save());
    EXPECT_FALSE(layer.blocks().unsaved());
  }
  const Layer layer = top("a");
  EXPECT_EQ(layer.blocks().count(), 4U);
  for (const uint64_t block : {0, 4031, 4032, 25599})
    EXPECT_TRUE(layer.blocks().present(block)) << block;
  EXPECT_FALSE(layer.blocks().unsaved());
}

TEST_F(LayerSave, WritesOnlySectorsThatHaveChanged) {
  make("a", {.size_bytes = 100 * kMiB});
  Layer layer = top("a");
  layer.blocks().set(BlockMap::kSectorBits * 2, 1);
  ASSERT_TRUE(layer.save());
  layer.blocks().set(BlockMap::kSectorBits * 5 + 7, 1);
  auto save = layer.begin_save();
  ASSERT_TRUE(save);
  ASSERT_EQ(save->sectors.size(), 1U);
  EXPECT_EQ(save->sectors[0].offset, 12288U + 5 * 512);
}

TEST_F(LayerSave, ABitThatIsSetMeanwhileIsOfTheNextOne) {
  make("a", {.size_bytes = kMiB});
  Layer layer = top("a");
  layer.blocks().set(1, 1);
  auto first = layer.begin_save();
  ASSERT_TRUE(first);
  layer.blocks().set(2, 1);
  write_sectors(layer, *first);
  layer.end_save(std::move(*first));
  EXPECT_TRUE(layer.blocks().unsaved());
  {
    const auto looked = Layer::open(at("a"), {});
    EXPECT_TRUE(looked->blocks().present(1));
    EXPECT_FALSE(looked->blocks().present(2)) << "its data may be lost yet";
  }
  ASSERT_TRUE(layer.save());
  EXPECT_TRUE(Layer::open(at("a"), {})->blocks().present(2));
}

TEST_F(LayerSave, ThatHasFailedIsDoneAgain) {
  make("a", {.size_bytes = kMiB});
  Layer layer = top("a");
  layer.blocks().set(1, 1);
  {
    auto save = layer.begin_save();
    ASSERT_TRUE(save);
    EXPECT_FALSE(layer.blocks().unsaved());
    layer.put_back(std::move(*save));
    EXPECT_TRUE(layer.blocks().unsaved());
    const auto dropped = layer.begin_save();
    ASSERT_TRUE(dropped) << "the other one is over";
  }
  EXPECT_TRUE(layer.blocks().unsaved()) << "one that is dropped has failed";
  ASSERT_TRUE(layer.save());
  EXPECT_TRUE(Layer::open(at("a"), {})->blocks().present(1));
}

TEST_F(LayerSave, OneAtATime) {
  make("a", {.size_bytes = kMiB});
  Layer layer = top("a");
  layer.blocks().set(1, 1);
  auto one = layer.begin_save();
  ASSERT_TRUE(one);
  layer.blocks().set(2, 1);
  EXPECT_EQ(error_of(layer.begin_save()), EBUSY);
  EXPECT_EQ(error_of(layer.save()), EBUSY);
  EXPECT_TRUE(layer.blocks().unsaved());
  layer.end_save(std::move(*one));
  EXPECT_TRUE(layer.save());
}

TEST_F(LayerSave, LosesNothingThatOthersSetAtTheSameTime) {
  constexpr uint64_t kBlocks = 200'000;
  make("a", {.size_bytes = kBlocks * 4096});
  Layer layer = top("a");
  std::atomic<bool> done = false;
  std::thread saver([&] {
    while (!done) EXPECT_TRUE(layer.save());
  });
  std::vector<std::thread> setters;
  // Neighbours are of different threads, so that they share words.
  for (uint64_t first = 0; first < 4; first++)
    setters.emplace_back([&, first] {
      for (uint64_t block = first; block < kBlocks; block += 4)
        layer.blocks().set(block, 1);
    });
  for (auto& setter : setters) setter.join();
  done = true;
  saver.join();
  ASSERT_TRUE(layer.save());
  EXPECT_EQ(Layer::open(at("a"), {})->blocks().count(), kBlocks);
}

TEST_F(LayerOpen, TakesMemoryAndWhatIsInIt) {
  make("a", {.size_bytes = 200 * kMiB});
  std::vector<uint64_t> words;
  const auto memory = [&](uint64_t count) -> Result<std::span<uint64_t>> {
    words.resize(count);
    return std::span(words);
  };
  {
    Layer layer = top("a", {.memory = memory});
    layer.blocks().set(1, 1);
    ASSERT_TRUE(layer.save());
    layer.blocks().set(5000, 1);
    layer.blocks().set(50'000, 1);  // where the disk's bitmap is a hole still
  }
  ASSERT_EQ(words.size(), 51200U / 64 + 1);
  EXPECT_EQ(words[0], 2U);
  // A server that was killed after the first half of set().
  words.back() = 0;
  Layer layer = top("a", {.memory = memory, .adopt = true});
  EXPECT_TRUE(layer.blocks().present(1));
  EXPECT_TRUE(layer.blocks().present(5000));
  auto save = layer.begin_save();
  ASSERT_EQ(save->sectors.size(), 2U) << "the third is as on the disk";
  EXPECT_EQ(save->sectors[0].offset, 12288U + 512);
  EXPECT_EQ(save->sectors[1].offset, 12288U + 12 * 512);
}

TEST_F(LayerOpen, SharesTheLockOfTheServerBefore) {
  make("a", {.size_bytes = kMiB});
  std::optional<Layer> last = top("a");
  last->blocks().set(1, 1);
  ASSERT_TRUE(last->save());
  std::filesystem::rename(at("a"), at("b"));
  std::optional<Layer> next = top("a", {.again = last->metadata_fd()});
  EXPECT_TRUE(next->blocks().present(1));
  last.reset();
  EXPECT_EQ(error_of(Layer::open(at("b"), {.use = Layer::Use::top})), EBUSY);
  next->blocks().set(2, 1);
  EXPECT_TRUE(next->save());
  next.reset();
  EXPECT_EQ(top("b").blocks().count(), 2U);
}

TEST_F(LayerOpen, ALargerDiskIsThereOnceItIsOpenedAgain) {
  const LayerHeader made = make("a", {.size_bytes = kMiB + 512});
  Layer layer = top("a");
  layer.blocks().set(256, 1);
  // Of no use to us, and there all the same.
  patch("a", made.data_offset + kMiB + 512, "behind");
  EXPECT_EQ(error_of(layer.grow(kMiB + 512)), EINVAL);
  EXPECT_EQ(error_of(layer.grow(2 * kMiB + 1)), EINVAL);
  EXPECT_EQ(error_of(layer.grow(kMostLayerBytes + 512)), EINVAL);
  EXPECT_EQ(error_of(layer.grow(kMostLayerBytes)), EFBIG);
  ASSERT_TRUE(layer.grow(8 * kMiB + 4096));
  const Layer grown = top("a", {.again = layer.metadata_fd()});
  EXPECT_EQ(grown.header().size_bytes, 8U * kMiB + 4096);
  EXPECT_EQ(grown.blocks().nr_blocks(), 2049U);
  EXPECT_EQ(grown.blocks().count(), 1U);
  EXPECT_TRUE(grown.blocks().present(256));
  EXPECT_EQ(grown.data_offset(), made.data_offset);
  EXPECT_FALSE(read("a").contains("behind"));
}

TEST_F(LayerOpen, FailsIfThereIsNoMemory) {
  make("a", {.size_bytes = kMiB});
  const auto none = [](uint64_t) -> Result<std::span<uint64_t>> {
    return fail(ENOMEM, "a map");
  };
  EXPECT_EQ(error_of(Layer::open(at("a"), {.memory = none})), ENOMEM);
  const auto little = [](uint64_t) -> Result<std::span<uint64_t>> {
    return std::span<uint64_t>();
  };
  EXPECT_EQ(error_of(Layer::open(at("a"), {.memory = little})), EINVAL);
}

}  // namespace
}  // namespace ublk
