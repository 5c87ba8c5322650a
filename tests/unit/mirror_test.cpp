// SPDX-License-Identifier: MIT
//
// What the mirror makes of requests whose SQEs end as they are told to here.

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "server/legs.h"
#include "server/target.h"

namespace ublk {
namespace {

class Mirror : public testing::Test {
 protected:
  Mirror() {
    target_.ops = &kMirrorTarget;
    target_.legs = std::make_shared<Legs>(2, 0);
    target_.legs->on_failure([this](uint32_t failed) -> Result<void> {
      noted_.push_back(failed);
      if (note_fails_) return fail_sys(ENOSPC, "note");
      return {};
    });
    io_.desc = &desc_;
    io_.buf = buffer_;
  }

  // A request of 8 sectors, whose SQEs end one after the other with these. The
  // result; `legs_` are those that SQEs were for.
  int run(uint8_t op, const std::vector<int>& ends) {
    legs_.clear();
    desc_ = {};
    desc_.op_flags = op;
    desc_.nr_sectors = op == UBLK_IO_OP_FLUSH ? 0 : 8;
    sqe_ = {};
    auto result = kMirrorTarget.start(target_, io_, &sqe_);
    for (const int end : ends) {
      EXPECT_FALSE(result) << "ended before";
      legs_.push_back(sqe_.fd - kFirstTargetFile);
      sqe_ = {};
      result = kMirrorTarget.done(target_, io_, end, &sqe_);
    }
    EXPECT_TRUE(result) << "goes on";
    return result.value_or(1);
  }

  using Numbers = std::vector<int>;
  Target target_;
  ublksrv_io_desc desc_{};
  std::byte buffer_[4096];
  Io io_;
  io_uring_sqe sqe_{};
  Numbers legs_;
  std::vector<uint32_t> noted_;
  bool note_fails_ = false;
};

TEST_F(Mirror, ReadsOneLegAndTheOtherIfThatFails) {
  EXPECT_EQ(run(UBLK_IO_OP_READ, {4096}), 4096);
  EXPECT_EQ(legs_, Numbers({0}));
  EXPECT_EQ(run(UBLK_IO_OP_READ, {-EIO, 4096}), 4096);
  EXPECT_EQ(legs_, Numbers({0, 1}));
  EXPECT_EQ(run(UBLK_IO_OP_READ, {1024, -EIO, 4096}), 4096)
      << "the other leg has to give it whole";
  EXPECT_EQ(run(UBLK_IO_OP_READ, {-EIO, -EIO}), -EIO);
  EXPECT_EQ(target_.legs->failed(), 0U) << "it lacks nothing";
}

TEST_F(Mirror, WritesOneLegAfterTheOther) {
  for (const uint8_t op : {UBLK_IO_OP_WRITE, UBLK_IO_OP_FLUSH,
                           UBLK_IO_OP_DISCARD, UBLK_IO_OP_WRITE_ZEROES}) {
    const int whole = op == UBLK_IO_OP_WRITE ? 4096 : 0;
    EXPECT_EQ(run(op, {whole, whole}), whole);
    EXPECT_EQ(legs_, Numbers({0, 1}));
  }
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {512, 3584, -EAGAIN, 4096}), 4096);
  EXPECT_EQ(legs_, Numbers({0, 0, 1, 1}));
}

TEST_F(Mirror, GivesUpTheLegThatLacksAWrite) {
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {-EIO, 4096}), 4096);
  EXPECT_EQ(noted_, std::vector{1U});
  EXPECT_EQ(run(UBLK_IO_OP_READ, {4096}), 4096);
  EXPECT_EQ(legs_, Numbers({1}));
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {4096}), 4096);
  EXPECT_EQ(legs_, Numbers({1}));
  // The last one is kept.
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {-EIO}), -EIO);
  EXPECT_EQ(run(UBLK_IO_OP_READ, {-EIO}), -EIO);
  EXPECT_EQ(target_.legs->failed(), 1U);
  EXPECT_EQ(noted_, std::vector{1U}) << "once";
}

TEST_F(Mirror, KeepsBothLegsWhereBothFailOrNeitherIsToBlame) {
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {-EIO, -ENOSPC}), -EIO);
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {-ENOMEM, 4096}), -ENOMEM);
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {4096, -ECANCELED}), -ECANCELED);
  EXPECT_EQ(run(UBLK_IO_OP_DISCARD, {0, -EOPNOTSUPP}), -EOPNOTSUPP);
  EXPECT_TRUE(noted_.empty());
  EXPECT_EQ(target_.legs->failed(), 0U);
}

TEST_F(Mirror, FailsAWriteOfWhichItCannotNoteThatALegLacksIt) {
  note_fails_ = true;
  EXPECT_EQ(run(UBLK_IO_OP_WRITE, {4096, -EIO}), -EIO);
  EXPECT_EQ(target_.legs->failed(), 0U);
}

TEST_F(Mirror, FailsAWriteThatIsOnlyOnALegThatWasGivenUpMeanwhile) {
  desc_.op_flags = UBLK_IO_OP_WRITE;
  desc_.nr_sectors = 8;
  EXPECT_FALSE(kMirrorTarget.start(target_, io_, &sqe_));
  EXPECT_FALSE(kMirrorTarget.done(target_, io_, 4096, &sqe_));
  // By another request, which leg 1 has.
  ASSERT_TRUE(target_.legs->give_up(1));
  EXPECT_EQ(kMirrorTarget.done(target_, io_, -EIO, &sqe_).value_or(1), -EIO);
  EXPECT_EQ(target_.legs->failed(), 1U);
}

TEST(Legs, AtLeastOneStays) {
  Legs legs(2, 0);
  EXPECT_TRUE(legs.give_up(2));
  EXPECT_TRUE(legs.give_up(2));
  EXPECT_EQ(legs.give_up(1).error().code(), EIO);
  EXPECT_TRUE(legs.in_use(0));
  EXPECT_FALSE(legs.in_use(1));
}

}  // namespace
}  // namespace ublk
