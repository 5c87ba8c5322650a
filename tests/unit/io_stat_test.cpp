// SPDX-License-Identifier: MIT
#include "device/io_stat.h"

#include <gtest/gtest.h>

namespace ublk {
namespace {

TEST(IoStat, ReadsWhatTheKernelWrites) {
  const auto stat = parse_io_stat(
      "      10        1       80        7       20        2      160        9 "
      "       3       11       99        4        0     2048        5        6 "
      "       8\n");
  ASSERT_TRUE(stat);
  const auto is = [](const IoCount& count, uint64_t done, uint64_t bytes,
                     uint64_t ms) {
    return count.done == done && count.bytes == bytes && count.ms == ms;
  };
  EXPECT_TRUE(is(stat->kinds[kIoRead], 10, uint64_t{80} * 512, 7));
  EXPECT_TRUE(is(stat->kinds[kIoWrite], 20, uint64_t{160} * 512, 9));
  EXPECT_TRUE(is(stat->kinds[kIoDiscard], 4, uint64_t{2048} * 512, 5));
  EXPECT_TRUE(is(stat->kinds[kIoFlush], 6, 0, 8));
  EXPECT_EQ(stat->in_flight, 3U);
  EXPECT_EQ(stat->busy_ms, 11U);
  for (const char* bad : {"", "1 2 3", "a b c d e f g h i j k l m n o p q",
                          "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"})
    EXPECT_FALSE(parse_io_stat(bad)) << bad;
}

TEST(IoStat, WhatBeganAnewCountsFromNought) {
  Sample before{};
  Sample now{};
  before.io.kinds[kIoRead] = {100, 4096, 7};
  now.io.kinds[kIoRead] = {130, 8192, 9};
  before.device.server = ServerStats{.pid = 5, .wakeups = 50, .cpu_ns = 1000};
  now.device.server = ServerStats{.pid = 5, .wakeups = 60, .cpu_ns = 1500};
  before.device.bpf.emplace().redirected = 7;
  now.device.bpf.emplace().redirected = 9;
  Activity done = activity(before, now);
  EXPECT_EQ(done.io.kinds[kIoRead].done, 30U);
  EXPECT_EQ(done.io.kinds[kIoRead].bytes, 4096U);
  EXPECT_EQ(done.wakeups, 10U);
  EXPECT_EQ(done.cpu_ns, 500U);
  EXPECT_EQ(done.redirected, 2U);
  // Another server, and a device of the same number that was added meanwhile.
  now.device.server = ServerStats{.pid = 6, .wakeups = 3, .cpu_ns = 20};
  now.io.kinds[kIoRead] = {8, 512, 1};
  now.device.bpf->redirected = 1;
  done = activity(before, now);
  EXPECT_EQ(done.io.kinds[kIoRead].done, 8U);
  EXPECT_EQ(done.wakeups, 3U);
  EXPECT_EQ(done.cpu_ns, 20U);
  EXPECT_EQ(done.redirected, 1U);
}

}  // namespace
}  // namespace ublk
