// SPDX-License-Identifier: MIT
//
// The clone target on real layers and a real ring, without a device: requests
// are driven SQE by SQE, in any order that a test wants.

#include <gtest/gtest.h>

#include <cerrno>

#include "clone_driver.h"

namespace ublk {
namespace {

TEST_F(CloneTarget, ReadsWhatIsBelowAndZeroesBehindIt) {
  // Ends within a sector.
  const std::string path = layer("top", base(64 * kKiB + 1000), 4096, kMiB);
  for (const bool buffers : {true, false}) {
    Served served(path, buffers);
    ASSERT_TRUE(served.take());
    Bytes expected = bytes_of(64 * kKiB + 1000, 1);
    expected.resize(kMiB);
    EXPECT_EQ(read(served, 0, kMiB), expected);
    EXPECT_EQ(read(served, 512 * kKiB, 4096), Bytes(4096));
    Request hit(served, UBLK_IO_OP_READ, 4096, 8192);
    EXPECT_FALSE(hit.has_frame());
    EXPECT_EQ(hit.finish(), 8192);
  }
}

TEST_F(CloneTarget, WritesStayInTheLayerAndOverItsEnd) {
  const std::string path = layer("top", base(kMiB));
  const Bytes data = bytes_of(12 * kKiB, 2);
  {
    Served served(path);
    ASSERT_TRUE(served.take());
    write(served, 8192, data);
    EXPECT_EQ(read(served, 8192, data.size()), data);
    Request hit(served, UBLK_IO_OP_WRITE, 8192, 4096, bytes_of(4096, 2));
    EXPECT_FALSE(hit.has_frame());
    EXPECT_EQ(hit.finish(), 4096);
    EXPECT_TRUE(served.clone().close());
  }
  Served served(path);
  ASSERT_TRUE(served.take());
  Bytes expected = bytes_of(kMiB, 1);
  std::ranges::copy(data, expected.begin() + 8192);
  EXPECT_EQ(read(served, 0, kMiB), expected);
}

TEST_F(CloneTarget, APartOfABlockBringsTheRestAlong) {
  for (const uint64_t block : {4 * kKiB, 64 * kKiB}) {
    const std::string path = layer(fmt("top{}", block), base(kMiB), block);
    Served served(path);
    ASSERT_TRUE(served.take());
    Bytes expected = bytes_of(kMiB, 1);
    const Bytes data = bytes_of(2 * block, 2);
    write(served, block + 512, data);
    std::ranges::copy(data, expected.begin() + block + 512);
    EXPECT_EQ(served.top().blocks().count(), 3U);
    EXPECT_EQ(read(served, 0, kMiB), expected);
  }
}

TEST_F(CloneTarget, ABlockIsPresentOnlyWhenItsDataIsThere) {
  Served served(layer("top", base(kMiB)));
  ASSERT_TRUE(served.take());
  const Bytes old = bytes_of(kMiB, 1);
  Request writing(served, UBLK_IO_OP_WRITE, 0, 4096, bytes_of(4096, 2));
  EXPECT_EQ(writing.opcode(), IORING_OP_WRITE);
  EXPECT_EQ(read(served, 0, 4096), Bytes(old.begin(), old.begin() + 4096));
  EXPECT_EQ(writing.finish(), 4096);
  EXPECT_EQ(read(served, 0, 4096), bytes_of(4096, 2));
}

TEST_F(CloneTarget, TwoFirstWritesOfOneBlockLoseNothing) {
  Served served(layer("top", base(kMiB), 65536));
  ASSERT_TRUE(served.take());
  Bytes expected = bytes_of(kMiB, 1);
  const Bytes one = bytes_of(4096, 2), other = bytes_of(512, 3);
  Request first(served, UBLK_IO_OP_WRITE, 4096, one.size(), one);
  Request second(served, UBLK_IO_OP_WRITE, 32768, other.size(), other);
  EXPECT_TRUE(second.waits());
  EXPECT_FALSE(second.may_go_on());
  EXPECT_EQ(first.finish(), 4096);
  EXPECT_TRUE(second.may_go_on());
  EXPECT_EQ(second.finish(), 512);
  std::ranges::copy(one, expected.begin() + 4096);
  std::ranges::copy(other, expected.begin() + 32768);
  EXPECT_EQ(read(served, 0, kMiB), expected);
}

TEST_F(CloneTarget, AFirstWriteThatFailsLeavesTheBlockAndLetsOthersIn) {
  Served served(layer("top", base(kMiB)));
  ASSERT_TRUE(served.take());
  Request first(served, UBLK_IO_OP_WRITE, 0, 8192, bytes_of(8192, 2));
  Request second(served, UBLK_IO_OP_WRITE, 4096, 512, bytes_of(512, 3));
  EXPECT_TRUE(second.waits());
  EXPECT_EQ(first.step(-ENOSPC), -ENOSPC);
  EXPECT_TRUE(second.may_go_on());
  EXPECT_EQ(second.finish(), 512);
  Bytes expected = bytes_of(kMiB, 1);
  std::ranges::copy(bytes_of(512, 3), expected.begin() + 4096);
  EXPECT_EQ(read(served, 0, kMiB), expected);
}

TEST_F(CloneTarget, FlushSyncsDataBeforeTheMapAndTheMapAfterIt) {
  Served served(layer("top", base(kMiB)));
  ASSERT_TRUE(served.take());
  write(served, 0, bytes_of(4096, 2));
  Request flushing(served, UBLK_IO_OP_FLUSH, 0, 0);
  EXPECT_EQ(flushing.opcode(), IORING_OP_FSYNC);
  EXPECT_FALSE(flushing.step());
  EXPECT_EQ(flushing.opcode(), IORING_OP_WRITEV);
  EXPECT_FALSE(flushing.step());
  EXPECT_EQ(flushing.opcode(), IORING_OP_FSYNC);
  EXPECT_EQ(flushing.step(), 0);
  // Nothing is new: no more than the file is synced.
  Request again(served, UBLK_IO_OP_FLUSH, 0, 0);
  EXPECT_FALSE(again.has_frame());
  EXPECT_EQ(again.opcode(), IORING_OP_FSYNC);
  EXPECT_EQ(again.step(), 0);
}

TEST_F(CloneTarget, AFlushThatFailsIsTriedAgainByTheNext) {
  Served served(layer("top", base(kMiB)));
  ASSERT_TRUE(served.take());
  for (const int steps : {0, 1, 2}) {
    write(served, uint64_t{4096} * static_cast<unsigned>(steps),
          bytes_of(4096, 2));
    Request flushing(served, UBLK_IO_OP_FLUSH, 0, 0);
    for (int i = 0; i < steps; i++) EXPECT_FALSE(flushing.step());
    EXPECT_EQ(flushing.step(-EIO), -EIO);
    EXPECT_TRUE(served.top().blocks().unsaved());
    EXPECT_EQ(flush(served), 0);
    EXPECT_FALSE(served.top().blocks().unsaved());
  }
}

TEST_F(CloneTarget, AFlushDuringASaveWaitsForTheNextOne) {
  Served served(layer("top", base(kMiB)));
  ASSERT_TRUE(served.take());
  write(served, 0, bytes_of(4096, 2));
  Request first(served, UBLK_IO_OP_FLUSH, 0, 0);
  write(served, 8192, bytes_of(4096, 3));
  Request second(served, UBLK_IO_OP_FLUSH, 0, 0);
  Request third(served, UBLK_IO_OP_FLUSH, 0, 0);
  EXPECT_TRUE(second.waits() && third.waits());
  EXPECT_EQ(first.finish(), 0);
  EXPECT_TRUE(second.may_go_on());
  EXPECT_FALSE(third.may_go_on());
  EXPECT_FALSE(second.step());
  EXPECT_EQ(second.opcode(), IORING_OP_FSYNC);
  EXPECT_FALSE(third.may_go_on());
  // Both have failed if it fails.
  EXPECT_EQ(second.step(-EIO), -EIO);
  EXPECT_EQ(third.finish(), -EIO);
  EXPECT_EQ(flush(served), 0);
}

TEST_F(CloneTarget, ALeaderThatIsDroppedFailsItsFollowers) {
  Served served(layer("top", base(kMiB)));
  ASSERT_TRUE(served.take());
  write(served, 0, bytes_of(4096, 2));
  std::optional<Request> leading(std::in_place, served, UBLK_IO_OP_FLUSH, 0, 0);
  std::optional<Request> next(std::in_place, served, UBLK_IO_OP_FLUSH, 0, 0);
  Request last(served, UBLK_IO_OP_FLUSH, 0, 0);
  next.reset();
  EXPECT_EQ(last.finish(), -EIO);
  leading.reset();
  EXPECT_TRUE(served.top().blocks().unsaved());
  EXPECT_EQ(flush(served), 0);
}

TEST_F(CloneTarget, FuaWaitsUntilTheBlockIsKnownToTheDisk) {
  const std::string path = layer("top", base(kMiB));
  const Bytes data = bytes_of(4096, 2), later = bytes_of(512, 3);
  {
    Served served(path);
    ASSERT_TRUE(served.take());
    write(served, 4096, data, UBLK_IO_F_FUA);
    EXPECT_FALSE(served.top().blocks().unsaved());
    // Of a block whose bit is not saved: the write alone is not enough.
    write(served, 8192, data);
    Request fua(served, UBLK_IO_OP_WRITE | UBLK_IO_F_FUA, 8192, 512, later);
    EXPECT_FALSE(fua.has_frame());
    EXPECT_FALSE(fua.step());
    EXPECT_EQ(fua.finish(), 512);
    EXPECT_FALSE(served.top().blocks().unsaved());
    // And one that is saved: the write is enough.
    Request hit(served, UBLK_IO_OP_WRITE | UBLK_IO_F_FUA, 8192, 512, later);
    EXPECT_EQ(hit.step(), 512);
  }
  Served served(path);
  ASSERT_TRUE(served.take());
  EXPECT_EQ(read(served, 4096, 4096), data);
  EXPECT_EQ(read(served, 8192, 512), later);
}

TEST_F(CloneTarget, DiscardFreesWholeBlocksAndZeroesAreExact) {
  for (const uint64_t block : {4 * kKiB, 64 * kKiB}) {
    Served served(layer(fmt("top{}", block), base(kMiB), block));
    ASSERT_TRUE(served.take());
    Bytes expected = bytes_of(kMiB, 1);
    const auto zero = [&](uint64_t at, uint64_t len) {
      std::fill_n(expected.begin() + static_cast<ptrdiff_t>(at), len,
                  std::byte{});
    };
    Request discard(served, UBLK_IO_OP_DISCARD, block - 512, 3 * block);
    EXPECT_EQ(discard.finish(), 0);
    zero(block, 2 * block);
    Request zeroes(served, UBLK_IO_OP_WRITE_ZEROES, 5 * block + 512, 2 * block);
    EXPECT_EQ(zeroes.finish(), 0);
    zero(5 * block + 512, 2 * block);
    Request within(served, UBLK_IO_OP_WRITE_ZEROES, 8 * block + 512, 512);
    EXPECT_EQ(within.finish(), 0);
    zero(8 * block + 512, 512);
    EXPECT_EQ(read(served, 0, kMiB), expected);
    EXPECT_EQ(served.top().blocks().count(), 6U);
  }
}

TEST_F(CloneTarget, DiscardOfWhatIsNowhereDoesNothing) {
  Served served(layer("top", "", 4096, kMiB));
  ASSERT_TRUE(served.take());
  for (const uint32_t op : {UBLK_IO_OP_DISCARD, UBLK_IO_OP_WRITE_ZEROES})
    EXPECT_EQ(Request(served, op, 512, 400 * kKiB).result(), 0);
  EXPECT_EQ(served.top().blocks().count(), 0U);
}

TEST_F(CloneTarget, ReadsThroughLayersOfOtherBlockAndDiskSizes) {
  // Of the base, what is behind the end of the lower layer does not show.
  const std::string lower = layer("lower", base(700 * kKiB), 65536, 512 * kKiB);
  Bytes expected = bytes_of(700 * kKiB, 1);
  expected.resize(512 * kKiB);
  expected.resize(kMiB);
  {
    Served served(lower);
    ASSERT_TRUE(served.take());
    const Bytes data = bytes_of(70 * kKiB, 2);
    write(served, 400 * kKiB, data);
    std::ranges::copy(data, expected.begin() + 400 * kKiB);
    ASSERT_TRUE(served.clone().close());
  }
  Served served(layer("top", lower, 4096, kMiB));
  ASSERT_TRUE(served.take());
  EXPECT_EQ(read(served, 0, kMiB), expected);
  const Bytes data = bytes_of(1024, 3);
  write(served, 511 * kKiB + 512, data);
  std::ranges::copy(data, expected.begin() + 511 * kKiB + 512);
  EXPECT_EQ(read(served, 0, kMiB), expected);
}

TEST_F(CloneTarget, WhatServesItIsAlone) {
  const std::string path = layer("top", "", 4096, kMiB);
  Served served(path);
  ASSERT_TRUE(served.take());
  Served other(path);
  EXPECT_EQ(other.take().error().code(), EBUSY);
}

TEST_F(CloneTarget, ASuccessorHasWhatWasDoneAndNotSaved) {
  const std::string path = layer("top", base(kMiB));
  std::vector<uint64_t> memory, left;
  const Bytes data = bytes_of(4096, 2);
  {
    Served served(path);
    ASSERT_TRUE(served.take(&memory));
    write(served, 4096, data);
    // Dies in the middle of a save, which has taken the marks.
    Request flushing(served, UBLK_IO_OP_FLUSH, 0, 0);
    EXPECT_FALSE(flushing.step());
    left = memory;
  }
  memory = left;
  {
    Served served(path);
    ASSERT_TRUE(served.take(&memory, true));
    EXPECT_EQ(read(served, 4096, 4096), data);
    EXPECT_TRUE(served.top().blocks().unsaved());
    ASSERT_TRUE(served.clone().close());
  }
  Served served(path);
  ASSERT_TRUE(served.take());
  EXPECT_EQ(read(served, 4096, 4096), data);
}

TEST_F(CloneTarget, RefusesWhatDoesNotFit) {
  const std::string path = layer("top", "", 4096, kMiB);
  TargetSpec spec;
  spec.type = "clone";
  spec.files = {path};
  spec.max_io_bytes = kMiB;
  EXPECT_TRUE(open_target(spec));
  spec.size_bytes = 2 * kMiB;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
  spec.size_bytes = 0;
  spec.offset_bytes = 4096;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
  spec.offset_bytes = 0;
  spec.files = {base(kMiB)};
  EXPECT_EQ(open_target(spec).error().code(), EPROTO);
}
}  // namespace
}  // namespace ublk
