// SPDX-License-Identifier: MIT
//
// What batches put into a ring, without a driver.

#include "server/batch.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "server/data_path.h"

namespace ublk {
namespace {

class Batches : public testing::Test {
 protected:
  void SetUp() override {
    const int ret = io_uring_queue_init(8, &ring_, 0);
    if (ret == -ENOSYS || ret == -EPERM) GTEST_SKIP() << "no io_uring here";
    ASSERT_EQ(ret, 0);
  }
  void TearDown() override {
    batch_.reset();
    if (!IsSkipped()) io_uring_queue_exit(&ring_);
  }

  void make(uint64_t dev_flags) {
    batch_.reset();
    auto made =
        Batch::create(&ring_, {.q_id = 1, .depth = 4, .dev_flags = dev_flags});
    ASSERT_TRUE(made) << made.error().line();
    batch_ = std::move(*made);
  }
  static Io io(uint16_t tag) {
    Io io;
    io.tag = tag;
    io.command_addr = 0x1000ULL * (tag + 1U);
    return io;
  }
  // The newest SQE.
  const io_uring_sqe& last() { return ring_.sq.sqes[ring_.sq.sqe_tail - 1]; }
  const ublk_batch_io& command() {
    return *reinterpret_cast<const ublk_batch_io*>(last().cmd);
  }
  template <typename T>
  T at(size_t off_bytes) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(last().addr) + off_bytes,
                sizeof(value));
    return value;
  }

  io_uring ring_{};
  std::unique_ptr<Batch> batch_;
};

TEST_F(Batches, CommitARoundByOneCommand) {
  make(UBLK_F_BATCH_IO);
  batch_->flush(true);
  EXPECT_EQ(io_uring_sq_ready(&ring_), 0U) << "nothing to commit";
  batch_->commit(io(2), 4096);
  batch_->commit(io(0), -EIO);
  EXPECT_TRUE(batch_->pending());
  batch_->flush(true);
  EXPECT_FALSE(batch_->pending());
  ASSERT_EQ(io_uring_sq_ready(&ring_), 1U);
  EXPECT_EQ(last().cmd_op, UBLK_U_IO_COMMIT_IO_CMDS);
  EXPECT_EQ(last().flags, IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS);
  EXPECT_EQ(command().q_id, 1);
  EXPECT_EQ(command().nr_elem, 2);
  EXPECT_EQ(command().flags, UBLK_BATCH_F_HAS_BUF_ADDR);
  ASSERT_EQ(command().elem_bytes, 16);
  EXPECT_EQ(at<ublk_elem_header>(0).tag, 2);
  EXPECT_EQ(at<ublk_elem_header>(0).result, 4096);
  EXPECT_EQ(at<uint64_t>(8), 0x3000U);
  EXPECT_EQ(at<ublk_elem_header>(16).tag, 0);
  EXPECT_EQ(at<ublk_elem_header>(16).result, -EIO);
}

TEST_F(Batches, KeepWhatTheKernelMayStillRead) {
  make(UBLK_F_BATCH_IO);
  batch_->commit(io(2), 4096);
  batch_->flush(true);
  batch_->commit(io(3), 512);
  batch_->flush(false);
  EXPECT_EQ(io_uring_sq_ready(&ring_), 1U);
  EXPECT_TRUE(batch_->pending());
  EXPECT_EQ(at<ublk_elem_header>(0).tag, 2);
  batch_->flush(true);
  ASSERT_EQ(io_uring_sq_ready(&ring_), 2U);
  EXPECT_EQ(at<ublk_elem_header>(0).tag, 3);
}

TEST_F(Batches, ElementsHaveWhatTheDataPathNeeds) {
  const struct {
    uint64_t flags;
    uint16_t batch_flags;
    uint8_t elem_bytes;
  } cases[] = {
      {0, UBLK_BATCH_F_HAS_BUF_ADDR, 16},
      {UBLK_F_USER_COPY, 0, 8},
      {UBLK_F_SUPPORT_ZERO_COPY, 0, 8},
      {UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG,
       UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, 8},
  };
  for (const auto& [flags, batch_flags, elem_bytes] : cases) {
    make(flags | UBLK_F_BATCH_IO);
    batch_->commit(io(3), 0);
    batch_->flush(true);
    EXPECT_EQ(command().flags, batch_flags);
    EXPECT_EQ(command().elem_bytes, elem_bytes);
    EXPECT_EQ(at<ublk_elem_header>(0).buf_index, 3) << "its place in the table";
  }
}

TEST_F(Batches, FetchIsAskedForAgainWhenBuffersRanOut) {
  make(UBLK_F_BATCH_IO);
  io_uring_cqe cqe{};
  cqe.res = -ENOBUFS;
  ASSERT_TRUE(batch_->fetched(cqe));
  EXPECT_TRUE(batch_->fetching());
  ASSERT_EQ(io_uring_sq_ready(&ring_), 1U);
  EXPECT_EQ(last().cmd_op, UBLK_U_IO_FETCH_IO_CMDS);
  EXPECT_EQ(last().flags, IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT);

  cqe.res = -ENODEV;
  ASSERT_TRUE(batch_->fetched(cqe));
  EXPECT_FALSE(batch_->fetching()) << "the device is stopped";
  cqe.res = -EINVAL;
  EXPECT_EQ(batch_->fetched(cqe).error().code(), EINVAL);
}

TEST_F(Batches, TagsAreReadFromTheBufferThatTheyCameIn) {
  make(UBLK_F_BATCH_IO);
  io_uring_cqe cqe{};
  cqe.flags =
      IORING_CQE_F_MORE | IORING_CQE_F_BUFFER | (1U << IORING_CQE_BUFFER_SHIFT);
  cqe.res = 3 * sizeof(uint16_t);
  const auto tags = batch_->fetched(cqe);
  ASSERT_TRUE(tags);
  EXPECT_EQ(tags->size(), 3U);
  batch_->give_back(cqe);
}

}  // namespace
}  // namespace ublk
