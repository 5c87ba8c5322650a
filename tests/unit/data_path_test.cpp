// SPDX-License-Identifier: MIT
//
// What the data paths put into a ring, without a driver: the SQEs are looked
// at, not submitted.

#include "server/data_path.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

namespace ublk {
namespace {

constexpr uint64_t kEverything = ~0ULL;

TEST(DataPath, NamesAreUniqueAndFound) {
  std::set<std::string_view> names;
  for (const DataPath* path : all_data_paths()) {
    EXPECT_TRUE(names.insert(path->name).second) << path->name;
    EXPECT_EQ(*find_data_path(path->name), path);
  }
  const auto unknown = find_data_path("teleport");
  ASSERT_FALSE(unknown);
  for (const std::string_view name : names)
    EXPECT_NE(unknown.error().line().find(name), std::string::npos) << name;
}

TEST(DataPath, OfADeviceFollowsFromItsFlags) {
  for (const DataPath* path : all_data_paths()) {
    EXPECT_EQ(&data_path_of(path->flags), path) << path->name;
    EXPECT_EQ(&data_path_of(path->flags | UBLK_F_USER_RECOVERY), path);
  }
}

TEST(DataPath, ThatTheDriverLacksIsRefusedByName) {
  for (const DataPath* path : all_data_paths()) {
    EXPECT_EQ(*choose_data_path(path->name, kEverything), path);
    if (!path->flags) continue;
    const auto chosen = choose_data_path(path->name, ~path->flags);
    ASSERT_FALSE(chosen) << path->name;
    EXPECT_EQ(chosen.error().code(), EOPNOTSUPP);
    EXPECT_NE(chosen.error().line().find(path->name), std::string::npos);
    EXPECT_NE(chosen.error().line().find("needs UBLK_F_"), std::string::npos);
  }
}

TEST(DataPath, BestIsTakenOfWhatTheDriverHas) {
  const struct {
    uint64_t features;
    const DataPath& best;
  } cases[] = {
      {0, kCopyPath},
      {UBLK_F_NEED_GET_DATA | UBLK_F_USER_COPY, kCopyPath},
      {UBLK_F_AUTO_BUF_REG, kCopyPath},
      {UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_USER_COPY, kZeroCopyPath},
      {UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG, kAutoZeroCopyPath},
      {kEverything, kAutoZeroCopyPath},
  };
  for (const auto& [features, best] : cases)
    EXPECT_EQ((*choose_data_path(kAutoDataPath, features))->name, best.name)
        << features;
}

TEST(DataPath, BatchesAreRefusedWhereTheyCannotBe) {
  EXPECT_TRUE(check_batch(kCopyPath, UBLK_F_BATCH_IO));
  EXPECT_EQ(check_batch(kNeedGetDataPath, kEverything).error().code(), EINVAL);
  const auto refused = check_batch(kCopyPath, ~UBLK_F_BATCH_IO);
  EXPECT_EQ(refused.error().code(), EOPNOTSUPP);
  EXPECT_NE(refused.error().line().find("UBLK_F_BATCH_IO"), std::string::npos);
}

// A request of 8 sectors at tag 3 of queue 2, and the ring that it goes by.
class Path : public testing::Test {
 protected:
  void SetUp() override {
    const int ret = io_uring_queue_init(8, &ring_, 0);
    if (ret == -ENOSYS || ret == -EPERM) GTEST_SKIP() << "no io_uring here";
    ASSERT_EQ(ret, 0);
    io_.tag = 3;
    io_.desc = &desc_;
    request(UBLK_IO_OP_WRITE);
  }
  void TearDown() override {
    if (!IsSkipped()) io_uring_queue_exit(&ring_);
  }

  void request(uint32_t op_flags) {
    desc_ = {};
    desc_.op_flags = op_flags;
    desc_.nr_sectors = 8;
  }
  // What the target prepared, and then the path.
  io_uring_sqe* issue(const DataPath& path, uint8_t opcode) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    io_uring_prep_rw(opcode, sqe, kFirstTargetFile, io_.data_addr(), 4096, 7);
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->user_data = io_.tag | kTargetSqe;
    path.issue(queue(), io_, sqe);
    return sqe;
  }
  PathQueue queue() { return {.ring = &ring_, .char_fd = -1, .q_id = 2}; }
  unsigned queued() { return io_uring_sq_ready(&ring_); }
  static const ublksrv_io_cmd& command(const io_uring_sqe* sqe) {
    return *reinterpret_cast<const ublksrv_io_cmd*>(sqe->cmd);
  }

  io_uring ring_{};
  ublksrv_io_desc desc_{};
  Io io_;
};

TEST_F(Path, ZeroCopyRegistersBeforeTheTargetsSqeAndGivesBackAtTheEnd) {
  const io_uring_sqe* sqe = issue(kZeroCopyPath, IORING_OP_WRITE);
  ASSERT_EQ(queued(), 2U);
  EXPECT_EQ(sqe[0].cmd_op, UBLK_U_IO_REGISTER_IO_BUF);
  EXPECT_EQ(sqe[0].user_data, 3 | kRegisterSqe);
  EXPECT_EQ(sqe[0].flags,
            IOSQE_FIXED_FILE | IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
  EXPECT_EQ(command(&sqe[0]).q_id, 2);
  EXPECT_EQ(command(&sqe[0]).tag, 3);
  EXPECT_EQ(command(&sqe[0]).addr, 3U) << "its place in the table";
  EXPECT_EQ(sqe[1].opcode, IORING_OP_WRITE_FIXED);
  EXPECT_EQ(sqe[1].buf_index, 3);
  EXPECT_EQ(sqe[1].addr, 0U);
  EXPECT_EQ(sqe[1].user_data, 3 | kTargetSqe);

  // The rest of a short transfer has its buffer already.
  io_.done_bytes = 1024;
  sqe = issue(kZeroCopyPath, IORING_OP_WRITE);
  ASSERT_EQ(queued(), 3U);
  EXPECT_EQ(sqe->opcode, IORING_OP_WRITE_FIXED);
  EXPECT_EQ(sqe->addr, 1024U);

  int result = 4096;
  kZeroCopyPath.finish(queue(), io_, result);
  ASSERT_EQ(queued(), 4U);
  sqe = &ring_.sq.sqes[3];
  EXPECT_EQ(sqe->cmd_op, UBLK_U_IO_UNREGISTER_IO_BUF);
  EXPECT_EQ(sqe->flags, IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS);
  EXPECT_EQ(sqe->user_data, 3 | kUnregisterSqe);
  EXPECT_EQ(command(sqe).addr, 3U);
  EXPECT_EQ(io_.registered, Io::Registered::no);
}

TEST_F(Path, WithoutDataNothingIsRegistered) {
  request(UBLK_IO_OP_FLUSH);
  for (const DataPath* path : {&kZeroCopyPath, &kAutoZeroCopyPath}) {
    const unsigned before = queued();
    const io_uring_sqe* sqe = issue(*path, IORING_OP_FSYNC);
    EXPECT_EQ(sqe->opcode, IORING_OP_FSYNC);
    int result = 0;
    path->finish(queue(), io_, result);
    EXPECT_EQ(queued(), before + 1);
  }
}

TEST_F(Path, AutoZeroCopyLeavesRegistrationToTheDriver) {
  kAutoZeroCopyPath.init_tag(io_);
  EXPECT_EQ(io_.command_addr, 0U);
  EXPECT_EQ(io_.sqe_addr, 3U | UBLK_AUTO_BUF_REG_FALLBACK << 16);
  EXPECT_EQ(kAutoZeroCopyPath.deliver(queue(), io_, 0, nullptr), 0);
  const io_uring_sqe* sqe = issue(kAutoZeroCopyPath, IORING_OP_READ);
  ASSERT_EQ(queued(), 1U);
  EXPECT_EQ(sqe->opcode, IORING_OP_READ_FIXED);
  EXPECT_EQ(sqe->buf_index, 3);
  int result = 4096;
  kAutoZeroCopyPath.finish(queue(), io_, result);
  EXPECT_EQ(queued(), 1U);
}

TEST_F(Path, AutoZeroCopyRegistersWhatTheDriverCouldNot) {
  request(UBLK_IO_OP_READ | UBLK_IO_F_NEED_REG_BUF);
  EXPECT_EQ(kAutoZeroCopyPath.deliver(queue(), io_, 0, nullptr), 0);
  const io_uring_sqe* sqe = issue(kAutoZeroCopyPath, IORING_OP_READ);
  ASSERT_EQ(queued(), 2U);
  EXPECT_EQ(sqe[0].cmd_op, UBLK_U_IO_REGISTER_IO_BUF);
  EXPECT_EQ(sqe[1].opcode, IORING_OP_READ_FIXED);
}

TEST_F(Path, NeedGetDataAsksOnceForAWritesData) {
  std::byte buffer[1];
  io_.buf = buffer;
  kNeedGetDataPath.init_tag(io_);
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  EXPECT_EQ(
      kNeedGetDataPath.deliver(queue(), io_, UBLK_IO_RES_NEED_GET_DATA, sqe),
      1);
  EXPECT_EQ(sqe->cmd_op, UBLK_U_IO_NEED_GET_DATA);
  EXPECT_EQ(sqe->user_data, 3 | kCommandSqe);
  EXPECT_EQ(command(sqe).addr, reinterpret_cast<uintptr_t>(buffer));
  EXPECT_EQ(kNeedGetDataPath.deliver(queue(), io_, UBLK_IO_RES_OK, sqe), 0);
}

TEST_F(Path, UserCopyEndsARequestWhoseCopyFails) {
  std::byte buffer[4096];
  io_.buf = buffer;
  EXPECT_EQ(kUserCopyPath.deliver(queue(), io_, 0, nullptr), -EBADF);
  request(UBLK_IO_OP_READ);
  EXPECT_EQ(kUserCopyPath.deliver(queue(), io_, 0, nullptr), 0);
  int result = 4096;
  kUserCopyPath.finish(queue(), io_, result);
  EXPECT_EQ(result, -EBADF);
}

}  // namespace
}  // namespace ublk
