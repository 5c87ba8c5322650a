// SPDX-License-Identifier: MIT
#include "layer/block_map.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <random>
#include <thread>

namespace ublk {
namespace {

class Blocks : public testing::Test {
 protected:
  BlockMap map(uint64_t nr_blocks) {
    present_.assign(BlockMap::words_for(nr_blocks), 0);
    unsaved_.assign(BlockMap::unsaved_words_for(nr_blocks), 0);
    return {nr_blocks, present_, unsaved_};
  }
  std::vector<uint64_t> present_, unsaved_;
};

TEST_F(Blocks, NeedSoMuchMemory) {
  EXPECT_EQ(BlockMap::words_for(1), 1U);
  EXPECT_EQ(BlockMap::words_for(64), 1U);
  EXPECT_EQ(BlockMap::words_for(65), 2U);
  EXPECT_EQ(BlockMap::sectors_for(4032), 1U);
  EXPECT_EQ(BlockMap::sectors_for(4033), 2U);
  EXPECT_EQ(BlockMap::unsaved_words_for(1), 1U);
  EXPECT_EQ(BlockMap::unsaved_words_for(64 * BlockMap::kSectorBits), 1U);
  EXPECT_EQ(BlockMap::unsaved_words_for(64 * BlockMap::kSectorBits + 1), 2U);
}

TEST_F(Blocks, AreWhatWasSet) {
  std::mt19937 random(testing::UnitTest::GetInstance()->random_seed());
  for (int round = 0; round < 50; round++) {
    const uint64_t nr_blocks = 1 + random() % 9000;
    BlockMap blocks = map(nr_blocks);
    std::vector<bool> model(nr_blocks);
    std::vector<bool> sectors(BlockMap::sectors_for(nr_blocks));
    for (int i = 0; i < 8; i++) {
      const uint64_t first = random() % nr_blocks;
      const uint64_t count = random() % 300;
      blocks.set(first, count);
      for (uint64_t b = first; b < std::min(first + count, nr_blocks); b++)
        model[b] = sectors[b / BlockMap::kSectorBits] = true;
    }
    uint64_t count = 0;
    for (uint64_t b = 0; b < nr_blocks; b++) {
      ASSERT_EQ(blocks.present(b), model[b]) << b;
      count += model[b];
      uint64_t run = 1;
      while (b + run < nr_blocks && model[b + run] == model[b]) run++;
      ASSERT_EQ(blocks.run(b, nr_blocks), run) << b;
      ASSERT_EQ(blocks.run(b, 3), std::min<uint64_t>(run, 3)) << b;
    }
    EXPECT_EQ(blocks.count(), count);
    const auto unsaved = blocks.take_unsaved();
    std::vector<uint64_t> expected;
    for (uint64_t s = 0; s < sectors.size(); s++)
      if (sectors[s]) expected.push_back(s);
    EXPECT_EQ(unsaved, expected);
    EXPECT_FALSE(blocks.unsaved());
  }
}

TEST_F(Blocks, BeyondTheEndAreNone) {
  BlockMap blocks = map(70);
  // As a program that does not look could leave it.
  present_[1] = ~uint64_t{0};
  EXPECT_FALSE(blocks.present(70));
  EXPECT_FALSE(blocks.present(1 << 20));
  EXPECT_EQ(blocks.count(), 6U);
  EXPECT_EQ(blocks.run(64, 100), 6U);
  EXPECT_EQ(blocks.run(70, 100), 0U);
  EXPECT_EQ(blocks.sector_bits(0)[1], 0x3fU);
  blocks.set(70, 5);
  EXPECT_FALSE(blocks.unsaved());
  unsaved_[0] = 6;  // sectors that there are not
  EXPECT_EQ(blocks.take_unsaved(), std::vector<uint64_t>());
}

// Memory that tells when it is looked at for the first time.
struct Watched {
  static inline uint64_t* page = nullptr;
  static inline const uint64_t* other = nullptr;
  static inline uint64_t other_was = 0;
  static constexpr size_t kBytes = 4096;

  static void on_fault(int, siginfo_t*, void*) {
    other_was = *other;
    ::mprotect(page, kBytes, PROT_READ | PROT_WRITE);
  }
  // What `of` is when `page` is used first by `act`.
  template <typename Act>
  static uint64_t seen(int allowed, const uint64_t& of, const Act& act) {
    struct sigaction action{}, before{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, &before);
    other = &of;
    other_was = ~uint64_t{0};
    ::mprotect(page, kBytes, allowed);
    act();
    ::mprotect(page, kBytes, PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &before, nullptr);
    return other_was;
  }
};

TEST(BlockOrder, ABitIsSetBeforeItsMarkAndReadAfterThat) {
  void* page = ::mmap(nullptr, Watched::kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  Watched::page = static_cast<uint64_t*>(page);
  uint64_t unsaved = 0;
  BlockMap blocks(4096, std::span(Watched::page, 64), std::span(&unsaved, 1));
  EXPECT_EQ(Watched::seen(PROT_READ, unsaved, [&] { blocks.set(5, 1); }), 0U)
      << "a save could take the mark and miss the bit";
  EXPECT_EQ(unsaved, 1U);
  EXPECT_EQ(Watched::seen(PROT_NONE, unsaved,
                          [&] {
                            for (const uint64_t s : blocks.take_unsaved())
                              EXPECT_EQ(blocks.sector_bits(s)[0], 32U);
                          }),
            0U)
      << "a bit that is set after it was read would not be marked";
  ::munmap(page, Watched::kBytes);
}

TEST(BlockOrder, NoBitOfOtherThreadsIsLost) {
  constexpr uint64_t kBlocks = BlockMap::kSectorBits * 3;
  for (int round = 0; round < 300; round++) {
    std::vector<uint64_t> present(BlockMap::words_for(kBlocks));
    uint64_t unsaved = 0;
    BlockMap blocks(kBlocks, present, std::span(&unsaved, 1));
    std::vector<BlockMap::SectorBits> saved(3);
    const auto save = [&] {
      for (const uint64_t s : blocks.take_unsaved())
        saved[s] = blocks.sector_bits(s);
    };
    std::atomic<int> running = 3;
    std::atomic<int> waiting = 3;  // so that they run at the same time
    std::vector<std::thread> setters;
    for (uint64_t first = 0; first < 3; first++)
      setters.emplace_back([&, first] {
        for (waiting--; waiting;) std::this_thread::yield();
        for (uint64_t block = first; block < kBlocks; block += 3)
          blocks.set(block, 1);
        running--;
      });
    while (running) save();
    for (auto& setter : setters) setter.join();
    save();
    for (const auto& sector : saved)
      for (const uint64_t word : sector) ASSERT_EQ(word, ~uint64_t{0});
  }
}

TEST_F(Blocks, OfTheDiskAreThere) {
  BlockMap blocks = map(10'000);
  BlockMap::SectorBits on_disk{};
  on_disk[62] = 3;
  blocks.load_saved(1, on_disk);
  EXPECT_TRUE(blocks.present(4032 + 62 * 64 + 1));
  EXPECT_EQ(blocks.count(), 2U);
  EXPECT_FALSE(blocks.unsaved());
  on_disk[62] = 0;
  on_disk[30] = ~uint64_t{0};  // beyond the end, as the rest of that sector
  blocks.load_saved(2, on_disk);
  EXPECT_EQ(blocks.count(), 2U + 16);
}

TEST_F(Blocks, OfTheDiskAreMergedWithThoseInMemory) {
  BlockMap blocks = map(10'000);
  BlockMap::SectorBits on_disk{};
  on_disk[0] = 3;
  blocks.merge_saved(1, on_disk);
  EXPECT_TRUE(blocks.present(4032));
  EXPECT_EQ(blocks.count(), 2U);
  EXPECT_FALSE(blocks.unsaved());
  blocks.set(4040, 1);
  blocks.take_unsaved();
  blocks.merge_saved(1, on_disk);
  EXPECT_EQ(blocks.take_unsaved(), std::vector<uint64_t>{1});
}

}  // namespace
}  // namespace ublk
