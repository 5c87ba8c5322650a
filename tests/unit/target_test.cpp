// SPDX-License-Identifier: MIT
//
// What the targets make of requests, without a device: the SQEs of loop are
// looked at, not issued.

#include "server/target.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

namespace ublk {
namespace {

class Loop : public testing::Test {
 protected:
  void SetUp() override {
    target_.ops = &kLoopTarget;
    target_.spec.offset_bytes = 1 << 20;
    io_.desc = &desc_;
    io_.buf = buffer_;
  }

  // The first step of a request of 8 sectors at sector 16.
  std::optional<int> start(uint32_t op_flags) {
    desc_ = {};
    desc_.op_flags = op_flags;
    desc_.nr_sectors = 8;
    desc_.start_sector = 16;
    sqe_ = {};
    return kLoopTarget.start(target_, io_, &sqe_);
  }
  std::optional<int> done(int res) {
    sqe_ = {};
    return kLoopTarget.done(target_, io_, res, &sqe_);
  }

  static constexpr uint64_t kOff = (1 << 20) + 16 * 512;
  Target target_;
  ublksrv_io_desc desc_{};
  std::byte buffer_[4096];
  Io io_;
  io_uring_sqe sqe_{};
};

TEST_F(Loop, ReadsIntoTheTagsBuffer) {
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(sqe_.opcode, IORING_OP_READ);
  EXPECT_EQ(sqe_.fd, kFirstTargetFile);
  EXPECT_EQ(sqe_.flags, IOSQE_FIXED_FILE);
  EXPECT_EQ(sqe_.off, kOff);
  EXPECT_EQ(sqe_.len, 4096U);
  EXPECT_EQ(sqe_.addr, reinterpret_cast<uintptr_t>(buffer_));
}

TEST_F(Loop, WritesAndHonoursFua) {
  EXPECT_FALSE(start(UBLK_IO_OP_WRITE));
  EXPECT_EQ(sqe_.opcode, IORING_OP_WRITE);
  EXPECT_EQ(sqe_.rw_flags, 0);
  EXPECT_FALSE(start(UBLK_IO_OP_WRITE | UBLK_IO_F_FUA));
  EXPECT_EQ(sqe_.rw_flags, RWF_DSYNC);
}

TEST_F(Loop, FlushIsFsync) {
  EXPECT_FALSE(start(UBLK_IO_OP_FLUSH));
  EXPECT_EQ(sqe_.opcode, IORING_OP_FSYNC);
  EXPECT_EQ(*done(0), 0);
}

struct FallocateCase {
  uint32_t op_flags;
  uint32_t mode;
};

TEST_F(Loop, DiscardAndWriteZeroesAreFallocate) {
  constexpr FallocateCase cases[] = {
      {UBLK_IO_OP_DISCARD, FALLOC_FL_PUNCH_HOLE},
      {UBLK_IO_OP_WRITE_ZEROES, FALLOC_FL_PUNCH_HOLE},
      {UBLK_IO_OP_WRITE_ZEROES | UBLK_IO_F_NOUNMAP, FALLOC_FL_ZERO_RANGE},
  };
  for (const auto& [op_flags, mode] : cases) {
    EXPECT_FALSE(start(op_flags));
    EXPECT_EQ(sqe_.opcode, IORING_OP_FALLOCATE);
    EXPECT_EQ(sqe_.len, mode | FALLOC_FL_KEEP_SIZE);
    EXPECT_EQ(sqe_.off, kOff);
    EXPECT_EQ(sqe_.addr, 4096U);
    EXPECT_EQ(*done(0), 0);
    EXPECT_EQ(*done(-EOPNOTSUPP), -EOPNOTSUPP);
  }
}

TEST_F(Loop, DiscardLongerThan4GiBKeepsItsLength) {
  desc_.op_flags = UBLK_IO_OP_DISCARD;
  desc_.nr_sectors = 0x00ffffff;
  EXPECT_FALSE(kLoopTarget.start(target_, io_, &sqe_));
  EXPECT_EQ(sqe_.addr, uint64_t{0x00ffffff} << 9);
}

TEST_F(Loop, UnknownOperationIsRefused) {
  EXPECT_EQ(*start(UBLK_IO_OP_ZONE_OPEN), -EOPNOTSUPP);
}

TEST_F(Loop, WholeTransferIsDone) {
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(*done(4096), 4096);
}

TEST_F(Loop, ShortTransferIsContinued) {
  EXPECT_FALSE(start(UBLK_IO_OP_WRITE | UBLK_IO_F_FUA));
  EXPECT_FALSE(done(1024));
  EXPECT_EQ(sqe_.off, kOff + 1024);
  EXPECT_EQ(sqe_.len, 3072U);
  EXPECT_EQ(sqe_.addr, reinterpret_cast<uintptr_t>(buffer_ + 1024));
  EXPECT_EQ(sqe_.rw_flags, RWF_DSYNC);
  EXPECT_EQ(*done(3072), 4096);
}

TEST_F(Loop, EndOfFileIsAnError) {
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(*done(0), -EIO);
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_FALSE(done(100));
  EXPECT_EQ(*done(0), -EIO);
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_FALSE(done(100));
  EXPECT_EQ(*done(-EINVAL), -EIO) << "the rest is not aligned any more";
}

TEST_F(Loop, RetriesFromAWorkerWhatWouldBlock) {
  for (int res : {-EAGAIN, -EINTR}) {
    EXPECT_FALSE(start(UBLK_IO_OP_READ));
    EXPECT_FALSE(done(res));
    EXPECT_EQ(sqe_.opcode, IORING_OP_READ);
    EXPECT_EQ(sqe_.flags, IOSQE_FIXED_FILE | IOSQE_ASYNC);
  }
}

TEST_F(Loop, KeepsTheErrorOfTheFile) {
  EXPECT_FALSE(start(UBLK_IO_OP_WRITE));
  EXPECT_EQ(*done(-ENOSPC), -ENOSPC);
}

TEST(Null, CompletesAtOnce) {
  ublksrv_io_desc desc{};
  desc.nr_sectors = 8;
  std::byte buffer[1];
  Io io;
  io.desc = &desc;
  io.buf = buffer;
  io_uring_sqe sqe{};
  for (uint32_t op : {UBLK_IO_OP_READ, UBLK_IO_OP_WRITE}) {
    desc.op_flags = op;
    EXPECT_EQ(*kNullTarget.start({}, io, &sqe), 4096);
  }
  desc.op_flags = UBLK_IO_OP_FLUSH;
  EXPECT_EQ(*kNullTarget.start({}, io, &sqe), 0);
}

TEST(Null, ReadsZeroesWhereTheServerHasNoMemory) {
  ublksrv_io_desc desc{};
  desc.op_flags = UBLK_IO_OP_READ;
  desc.nr_sectors = 8;
  Io io;
  io.desc = &desc;
  io_uring_sqe sqe{};
  EXPECT_FALSE(kNullTarget.start({}, io, &sqe));
  EXPECT_EQ(sqe.opcode, IORING_OP_READ);
  EXPECT_EQ(sqe.fd, kFirstTargetFile);
  EXPECT_EQ(sqe.len, 4096U);
  EXPECT_FALSE(kNullTarget.done({}, io, 1024, &sqe));
  EXPECT_EQ(sqe.len, 3072U);
  EXPECT_EQ(sqe.addr, 1024U);
  EXPECT_FALSE(kNullTarget.done({}, io, -EAGAIN, &sqe));
  EXPECT_TRUE(sqe.flags & IOSQE_ASYNC);
  EXPECT_EQ(*kNullTarget.done({}, io, 3072, &sqe), 4096);
  EXPECT_EQ(*kNullTarget.done({}, io, -EIO, &sqe), -EIO);
  desc.op_flags = UBLK_IO_OP_WRITE;
  EXPECT_EQ(*kNullTarget.start({}, io, &sqe), 4096);
}

// Of this process: tests run side by side.
std::string image(uint64_t bytes, const char* which = "") {
  const std::string path =
      testing::TempDir() + fmt("ublk-bpf-unit-{}{}.img", ::getpid(), which);
  std::ofstream(path).close();
  std::filesystem::resize_file(path, bytes);
  return path;
}

TargetSpec spec_of(const char* type, std::vector<std::string> files) {
  TargetSpec spec;
  spec.type = type;
  spec.files = std::move(files);
  spec.max_io_bytes = 1 << 20;
  return spec;
}
TargetSpec loop_spec(const std::string& path) {
  return spec_of("loop", {path});
}

TEST(OpenTarget, TakesTheSizeOfTheFile) {
  auto target = open_target(loop_spec(image((1 << 20) + 100)));
  ASSERT_TRUE(target) << target.error().line();
  const ublk_param_basic& basic = target->params.basic;
  EXPECT_EQ(basic.dev_sectors, 2048U) << "whole blocks only";
  EXPECT_TRUE(basic.attrs & UBLK_ATTR_VOLATILE_CACHE);
  EXPECT_TRUE(basic.attrs & UBLK_ATTR_FUA);
  EXPECT_FALSE(basic.attrs & UBLK_ATTR_READ_ONLY);
  EXPECT_EQ(basic.max_sectors, 2048U);
  EXPECT_GE(basic.physical_bs_shift, basic.logical_bs_shift);
}

TEST(OpenTarget, TakesOffsetAndSizeWithinTheFile) {
  TargetSpec spec = loop_spec(image(1 << 20));
  spec.offset_bytes = 64 << 10;
  EXPECT_EQ(open_target(spec)->params.basic.dev_sectors, 2048U - 128);
  spec.size_bytes = 4096;
  EXPECT_EQ(open_target(spec)->params.basic.dev_sectors, 8U);
  spec.size_bytes = 1 << 20;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
  spec = loop_spec(image(1 << 20));
  spec.offset_bytes = 1 << 20;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
  spec.offset_bytes = 100;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
}

TEST(OpenTarget, ReadOnlyNeedsNoWritableFile) {
  TargetSpec spec = loop_spec(image(1 << 20));
  spec.read_only = true;
  auto target = open_target(spec);
  ASSERT_TRUE(target);
  EXPECT_TRUE(target->params.basic.attrs & UBLK_ATTR_READ_ONLY);
  EXPECT_FALSE(target->params.types & UBLK_PARAM_TYPE_DISCARD);
}

TEST(OpenTarget, RefusesWhatHoldsNoData) {
  const std::string fifo = testing::TempDir() + "ublk-bpf-unit.fifo";
  ::unlink(fifo.c_str());
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const std::pair<std::string, int> cases[] = {{"/", EISDIR},
                                               {fifo, EINVAL},
                                               {"/dev/null", EINVAL},
                                               {"/nope", ENOENT},
                                               {image(0), EINVAL}};
  for (const auto& [path, code] : cases) {
    const auto target = open_target(loop_spec(path));
    ASSERT_FALSE(target) << path;
    EXPECT_EQ(target.error().code(), code) << target.error().line();
    EXPECT_NE(target.error().line().find(path), std::string::npos);
  }
}

TEST(OpenTarget, EndsWithTheLastWholeBlock) {
  TargetSpec spec = loop_spec(image(8192 + 700));
  spec.block_bytes = 4096;
  const auto target = open_target(spec);
  ASSERT_TRUE(target) << target.error().line();
  EXPECT_EQ(target->params.basic.dev_sectors, 16U);
  ASSERT_TRUE(target->remark);
  EXPECT_NE(target->remark->line().find("700 bytes"), std::string::npos);
  EXPECT_FALSE(open_target(loop_spec(image(8192)))->remark);
}

TEST(OpenTarget, RefusesASizeThatIsNoMultipleOfTheBlockSize) {
  TargetSpec spec = loop_spec(image(8192));
  spec.size_bytes = 4096 + 512;
  EXPECT_TRUE(open_target(spec));
  spec.block_bytes = 4096;
  const auto target = open_target(spec);
  ASSERT_FALSE(target);
  EXPECT_EQ(target.error().code(), EINVAL);
}

TEST(OpenTarget, ChunksAreWholeBlocks) {
  TargetSpec spec = loop_spec(image(1 << 20));
  EXPECT_EQ(open_target(spec)->params.basic.chunk_sectors, 0U);
  spec.block_bytes = 4096;
  // Not only powers of two.
  spec.chunk_bytes = 3ULL * 4096;
  EXPECT_EQ(open_target(spec)->params.basic.chunk_sectors, 24U);
  for (const uint64_t bytes : {4096ULL + 512, 4ULL << 40}) {
    spec.chunk_bytes = bytes;
    const auto target = open_target(spec);
    ASSERT_FALSE(target) << bytes;
    EXPECT_EQ(target.error().code(), EINVAL);
    EXPECT_TRUE(target.error().line().contains(fmt("--chunk {}", bytes)))
        << target.error().line();
  }
}

TEST(OpenTarget, NeedsRoomForABlock) {
  TargetSpec spec = spec_of("null", {});
  spec.size_bytes = 100;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
  spec.size_bytes = 512;
  EXPECT_EQ(open_target(spec)->params.basic.dev_sectors, 1U);
  spec.block_bytes = 4096;
  EXPECT_EQ(open_target(spec).error().code(), EINVAL);
}

TEST(OpenTarget, MirrorHasWhatBothLegsHave) {
  const std::string a = image(1 << 20, "a"), b = image(1 << 19, "b");
  TargetSpec spec = spec_of("mirror", {a, b});
  auto target = open_target(spec);
  ASSERT_TRUE(target) << target.error().line();
  EXPECT_EQ(target->params.basic.dev_sectors, 1024U);
  EXPECT_EQ(target->files.size(), 2U);
  EXPECT_EQ(target->spec.identities.size(), 2U);
  EXPECT_EQ(open_target(spec_of("mirror", {a})).error().code(), EINVAL);
  EXPECT_EQ(open_target(spec_of("mirror", {a, a})).error().code(), EINVAL);
}

TEST(OpenTarget, MirrorDoesWithoutALegThatHasFailed) {
  const std::string a = image(1 << 20, "a");
  TargetSpec spec = spec_of("mirror", {"/nope", a});
  EXPECT_EQ(open_target(spec).error().code(), ENOENT);
  spec.failed_legs = 1;
  const auto target = open_target(spec);
  ASSERT_TRUE(target) << target.error().line();
  EXPECT_FALSE(target->files[0].fd.valid());
  EXPECT_TRUE(target->files[1].fd.valid());
  EXPECT_EQ(target->params.basic.dev_sectors, 2048U);
  spec.failed_legs = 3;
  EXPECT_EQ(open_target(spec).error().code(), EIO);
}

TEST(OpenTarget, KnowsItsTargets) {
  EXPECT_EQ(open_target(spec_of("tape", {})).error().code(), EINVAL);
  EXPECT_NE(open_target(spec_of("tape", {})).error().line().find("null, loop"),
            std::string::npos);
  EXPECT_EQ(open_target(spec_of("loop", {})).error().code(), EINVAL);
  EXPECT_EQ(open_target(spec_of("null", {"/x"})).error().code(), EINVAL);
}

}  // namespace
}  // namespace ublk
