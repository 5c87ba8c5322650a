// SPDX-License-Identifier: MIT
//
// The clone target against a model in memory, and with several queues.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <list>
#include <random>
#include <ranges>
#include <thread>

#include "clone_driver.h"

namespace ublk {
namespace {

class CloneModel : public CloneTarget {};

TEST_F(CloneModel, QueuesThatWriteToTheSameBlocksLoseNothing) {
  constexpr unsigned kThreads = 3;
  const std::string below = base(kMiB);
  for (int round = 0; round < 20; round++) {
    Served served(layer(fmt("top{}", round), below));
    ASSERT_TRUE(served.take());
    Bytes expected = bytes_of(kMiB, 1);
    const auto sector_of = [](uint64_t block, unsigned thread) {
      return block * 4096 + uint64_t{thread} * 2 * kSector;
    };
    std::vector<std::thread> threads;
    std::atomic<unsigned> failed = 0;
    for (unsigned t = 0; t < kThreads; t++)
      threads.emplace_back([&, t] {
        auto ring = served.make_ring();
        for (uint64_t block = 0; ring && block < kMiB / 4096; block++) {
          Request one(served, UBLK_IO_OP_WRITE, sector_of(block, t), kSector,
                      bytes_of(kSector, block * kThreads + t), ring->get());
          if (one.finish() != static_cast<int>(kSector)) failed++;
          if (block % 64 == uint64_t{t} * 8 &&
              Request(served, UBLK_IO_OP_FLUSH, 0, 0, {}, ring->get()).finish())
            failed++;
        }
        if (!ring) failed++;
      });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(failed, 0U);
    for (uint64_t block = 0; block < kMiB / 4096; block++)
      for (unsigned t = 0; t < kThreads; t++)
        std::ranges::copy(
            bytes_of(kSector, block * kThreads + t),
            expected.begin() + static_cast<ptrdiff_t>(sector_of(block, t)));
    ASSERT_TRUE(read(served, 0, kMiB) == expected) << "round " << round;
  }
}

// Requests of all kinds, eight at a time, each on its own sectors but not its
// own blocks, SQE by SQE in any order; now and then the server dies.
class Model {
 public:
  Model(Directory& directory, uint32_t block, bool buffers, uint64_t seed)
      : directory_(directory),
        block_(block),
        buffers_(buffers),
        random_(seed),
        expected_(kSize) {}

  void new_layer(const std::string& base) {
    if (served_) {
      finish_all();
      ASSERT_TRUE(served_->clone().close());
      served_.reset();
    }
    const std::string path = directory_.file(fmt("layer{}", layers_++));
    const auto made = Layer::create({.path = path,
                                     .size_bytes = kSize,
                                     .block_bytes = block_,
                                     .base = base});
    ASSERT_TRUE(made) << made.error().line();
    top_ = path;
    serve(false);
  }
  const std::string& top() const { return top_; }
  void has(const Bytes& base) {
    std::ranges::copy(base | std::views::take(kSize), expected_.begin());
  }

  void run(unsigned count) {
    for (unsigned i = 0; i < count && !testing::Test::HasFailure(); i++) {
      while (requests_.size() < 8) begin();
      one_step();
      if (random_() % 500 == 0) die();
    }
    finish_all();
    EXPECT_TRUE(read(*served_, 0, kSize) == expected_);
  }

 private:
  static constexpr uint64_t kSize = kMiB;

  void serve(bool adopt) {
    served_.emplace(top_, buffers_);
    const auto taken = served_->take(&memory_, adopt);
    ASSERT_TRUE(taken) << taken.error().line();
  }

  bool is_free(uint64_t at, uint64_t len) const {
    return std::ranges::none_of(requests_, [&](const Request& one) {
      return at < one.at() + one.len() && one.at() < at + len;
    });
  }

  void begin() {
    static constexpr uint32_t kOps[] = {
        UBLK_IO_OP_READ,         UBLK_IO_OP_READ,
        UBLK_IO_OP_READ,         UBLK_IO_OP_WRITE,
        UBLK_IO_OP_WRITE,        UBLK_IO_OP_WRITE,
        UBLK_IO_OP_WRITE,        UBLK_IO_OP_DISCARD,
        UBLK_IO_OP_WRITE_ZEROES, UBLK_IO_OP_WRITE_ZEROES,
        UBLK_IO_OP_FLUSH,        UBLK_IO_OP_WRITE | UBLK_IO_F_FUA};
    const uint32_t op = kOps[random_() % std::size(kOps)];
    if (op == UBLK_IO_OP_FLUSH) {
      requests_.emplace_back(*served_, op, 0, 0);
      return;
    }
    uint64_t len = kSector * (1 + random_() % (random_() % 3 ? 16 : 400));
    uint64_t at = kSector * (random_() % (kSize / kSector));
    if (random_() % 3 == 0) {
      at = at / block_ * block_;
      len = (len + block_ - 1) / block_ * block_;
    }
    len = std::min(len, kSize - at);
    if (!is_free(at, len)) return;
    requests_.emplace_back(
        *served_, op, at, len,
        (op & 0xff) == UBLK_IO_OP_WRITE ? bytes_of(len, random_()) : Bytes());
    if (requests_.back().result()) end(std::prev(requests_.end()));
  }

  void one_step() {
    auto it = requests_.begin();
    std::advance(it, random_() % requests_.size());
    if (!it->may_go_on()) return;
    // What would block tells again and again.
    if (it->step(random_() % 50 ? std::optional<int>() : -EINTR)) end(it);
  }

  void apply(const Request& one) {
    auto from = static_cast<ptrdiff_t>(one.at());
    auto to = static_cast<ptrdiff_t>(one.at() + one.len());
    if (one.op() == UBLK_IO_OP_WRITE)
      std::ranges::copy(one.data(), expected_.begin() + from);
    const auto block = static_cast<ptrdiff_t>(block_);
    if (one.op() == UBLK_IO_OP_DISCARD) {
      from = (from + block - 1) / block * block;
      to = to / block * block;
    }
    if ((one.op() == UBLK_IO_OP_DISCARD ||
         one.op() == UBLK_IO_OP_WRITE_ZEROES) &&
        from < to)
      std::fill(expected_.begin() + from, expected_.begin() + to, std::byte{});
  }

  void end(std::list<Request>::iterator it) {
    const bool moves =
        it->op() == UBLK_IO_OP_READ || it->op() == UBLK_IO_OP_WRITE;
    EXPECT_EQ(*it->result(), moves ? static_cast<int>(it->len()) : 0);
    if (it->op() == UBLK_IO_OP_READ) {
      const auto from = expected_.begin() + static_cast<ptrdiff_t>(it->at());
      EXPECT_TRUE(std::ranges::equal(
          it->data(), std::ranges::subrange(
                          from, from + static_cast<ptrdiff_t>(it->len()))))
          << "read of " << it->len() << " at " << it->at();
    } else {
      apply(*it);
    }
    requests_.erase(it);
  }

  void finish_all() {
    while (!requests_.empty() && !testing::Test::HasFailure()) one_step();
  }

  // What was in flight is done in part, or not: old or new, sector by sector.
  void die() {
    const std::vector<uint64_t> left = memory_;
    std::vector<std::pair<uint64_t, uint64_t>> unsure;
    Bytes done = expected_;
    std::swap(done, expected_);
    for (const Request& one : requests_)
      if (one.op() != UBLK_IO_OP_READ) {
        unsure.emplace_back(one.at(), one.len());
        apply(one);
      }
    std::swap(done, expected_);
    requests_.clear();
    served_.reset();
    memory_ = left;
    // A save may have taken the marks and not come to its end.
    if (random_() % 2)
      std::ranges::fill(
          memory_ | std::views::drop(BlockMap::words_for(kSize / block_)), 0);
    serve(true);
    const Bytes now = read(*served_, 0, kSize);
    for (const auto& [at, len] : unsure)
      for (uint64_t sector = at; sector < at + len; sector += kSector) {
        const auto is = [&](const Bytes& bytes) {
          return std::memcmp(now.data() + sector, bytes.data() + sector,
                             kSector) == 0;
        };
        EXPECT_TRUE(is(expected_) || is(done)) << "sector at " << sector;
        std::memcpy(expected_.data() + sector, now.data() + sector, kSector);
      }
    EXPECT_TRUE(now == expected_) << "after a death";
  }

  Directory& directory_;
  uint32_t block_;
  bool buffers_;
  std::mt19937_64 random_;
  Bytes expected_;
  unsigned layers_ = 0;
  std::string top_;
  std::vector<uint64_t> memory_;
  std::optional<Served> served_;
  std::list<Request> requests_;
};

// UBLK_BPF_SEED does one again.
TEST_F(CloneModel, IsWhatAModelInMemoryIs) {
  const char* wanted = std::getenv("UBLK_BPF_SEED");
  for (const uint32_t block : {4096U, 65536U})
    for (const bool buffers : {true, false}) {
      const uint64_t seed =
          wanted ? std::strtoull(wanted, nullptr, 0) : std::random_device()();
      SCOPED_TRACE(
          fmt("UBLK_BPF_SEED={} block {} buffers {}", seed, block, buffers));
      Directory directory;
      Model model(directory, block, buffers, seed);
      const Bytes below = bytes_of(kMiB / 2 + 700, seed);
      write_file(directory.file("base"), below);
      if (seed % 3) model.has(below);
      model.new_layer(seed % 3 ? directory.file("base") : "");
      for (unsigned layers = 0; layers < 12 && !HasFailure(); layers++) {
        model.run(400);
        model.new_layer(std::string(model.top()));
      }
      model.run(400);
      if (HasFailure()) return;
    }
}

}  // namespace
}  // namespace ublk
