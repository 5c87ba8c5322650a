// SPDX-License-Identifier: MIT
#include "device/latency.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "fake_control.h"

namespace ublk {
namespace {

TEST(Latency, BucketsArePowersOfTwo) {
  EXPECT_EQ(bucket_ns(0), 0U);
  EXPECT_EQ(bucket_ns(1), 2U);
  EXPECT_EQ(bucket_ns(20), 1U << 20);
}

TEST(Latency, SaysWhatAPartIsBelow) {
  OpLatency of;
  EXPECT_EQ(of.mean_ns(), 0U);
  EXPECT_EQ(of.below_ns(0.5), 0U);
  of.buckets[10] = 98;
  of.buckets[20] = 2;
  of.total_ns = 500;
  EXPECT_EQ(of.count(), 100U);
  EXPECT_EQ(of.mean_ns(), 5U);
  EXPECT_EQ(of.below_ns(0.5), 2048U);
  EXPECT_EQ(of.below_ns(0.98), 2048U);
  EXPECT_EQ(of.below_ns(0.99), 2U << 20);
  EXPECT_EQ(of.below_ns(1), 2U << 20);
}

TEST(Latency, DifferenceIsOfTheSameMap) {
  Latencies before{.prog_id = 1, .map_id = 2};
  before.ops[UBLK_IO_OP_WRITE].buckets[3] = 4;
  before.ops[UBLK_IO_OP_WRITE].total_ns = 10;
  Latencies now = before;
  now.ops[UBLK_IO_OP_WRITE].buckets[3] = 9;
  now.ops[UBLK_IO_OP_WRITE].total_ns = 30;
  now.ops[UBLK_IO_OP_WRITE].errors = 1;
  const OpLatency since = now.since(before).ops[UBLK_IO_OP_WRITE];
  EXPECT_EQ(since.buckets[3], 5U);
  EXPECT_EQ(since.total_ns, 20U);
  EXPECT_EQ(since.errors, 1U);
  now.map_id = 3;
  EXPECT_EQ(now.since(before).ops[UBLK_IO_OP_WRITE].buckets[3], 9U);
}

TEST(Latency, NeedsAProgram) {
  auto channel = std::make_unique<test::FakeControl>();
  channel->add(4, UBLK_F_BPF);
  Control control(std::move(channel));
  const auto read = read_latencies(control, 4);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), ENOENT);
}

}  // namespace
}  // namespace ublk
