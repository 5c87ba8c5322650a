// SPDX-License-Identifier: MIT
//
// What the fault target makes of requests, and how its rules are read. The
// SQEs are looked at, not issued.

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "server/fault_rule.h"
#include "server/target.h"

namespace ublk {
namespace {

constexpr uint64_t kMiB = 1 << 20;

FaultRule rule_of(const char* text) {
  auto rule = parse_fault_rule(text);
  EXPECT_TRUE(rule) << rule.error().line();
  return rule.value_or(FaultRule{});
}

TEST(FaultRule, TakesEverything) {
  const FaultRule rule = rule_of(
      "op=read+write_zeroes,range=1M-2M,rate=0.25,seed=7,delay=1500ms,error="
      "ENOSPC");
  EXPECT_EQ(rule.ops, 1U << UBLK_IO_OP_READ | 1U << UBLK_IO_OP_WRITE_ZEROES);
  EXPECT_EQ(rule.first_bytes, kMiB);
  EXPECT_EQ(rule.end_bytes, 2 * kMiB);
  EXPECT_EQ(rule.rate, 0.25);
  EXPECT_EQ(rule.seed, 7U);
  EXPECT_EQ(rule.delay.tv_sec, 1);
  EXPECT_EQ(rule.delay.tv_nsec, 500000000);
  EXPECT_EQ(rule.error, ENOSPC);
  EXPECT_EQ(rule_of("short=4K").short_bytes, 4096U);
  EXPECT_EQ(rule_of("error=5").error, EIO);
  EXPECT_EQ(rule_of("delay=200us").delay.tv_nsec, 200000);
}

TEST(FaultRule, RangeHasThreeForms) {
  EXPECT_EQ(rule_of("error=EIO,range=4K+512").end_bytes, 4608U);
  EXPECT_EQ(rule_of("error=EIO,range=4K-8K").end_bytes, 8192U);
  EXPECT_EQ(rule_of("error=EIO,range=4K-").end_bytes, UINT64_MAX);
}

TEST(FaultRule, SaysWhichPartIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "delay, error or short"},
      {"op=read", "delay, error or short"},
      {"error=EIO,short=512", "exclude"},
      {"error=EIO,error=EIO", "error: given twice"},
      {"bogus=1", "'bogus' is not one of: op, range"},
      {"error=EIO,,", "'' is not one of"},
      {"error", "error: '' is not an errno"},
      {"error=EBOGUS", "'EBOGUS'"},
      {"error=0", "'0' is not an errno"},
      {"op=,error=EIO", "op: '' is not one of: read"},
      {"op=read+,error=EIO", "op: '' is not one of: read"},
      {"op=trim,error=EIO", "'trim' is not one of: read"},
      {"rate=0,error=EIO", "rate: '0'"},
      {"rate=1.5,error=EIO", "rate: '1.5'"},
      {"rate=nan,error=EIO", "rate: 'nan'"},
      {"rate=-1,error=EIO", "rate: '-1'"},
      {"seed=x,error=EIO", "seed: 'x'"},
      {"range=1M,error=EIO", "FROM-TO"},
      {"range=2M-1M,error=EIO", "has no bytes"},
      {"range=1M-1M,error=EIO", "has no bytes"},
      {"range=-1M,error=EIO", "is not a size"},
      {"range=16383P+1024P,error=EIO", "past all devices"},
      {"delay=5", "delay: '5'"},
      {"delay=0ms", "delay: '0ms'"},
      {"delay=-5ms", "delay: '-5ms'"},
      {"delay=3601s", "delay: '3601s'"},
      {"delay=18446744073709551615s", "is not a time"},
      {"short=100", "not a multiple of 512"},
      {"short=0", "not a multiple of 512"},
      {"short=64M", "up to 32M"},
      {"failed=disk,error=EIO", "failed: 'disk' is not bpf"},
      {"failed=bpf", "delay, error or short"},
  };
  for (const auto& [text, words] : cases) {
    const auto rule = parse_fault_rule(text);
    ASSERT_FALSE(rule) << text;
    const std::string line = rule.error().line();
    EXPECT_TRUE(line.starts_with("--fault '")) << line;
    EXPECT_NE(line.find(words), std::string::npos) << text << " -> " << line;
  }
}

TEST(FaultRule, IsForWhatTouchesItsRange) {
  const FaultRule rule = rule_of("error=EIO,range=1M-2M");
  EXPECT_FALSE(rule.is_for(UBLK_IO_OP_READ, 0, kMiB));
  EXPECT_TRUE(rule.is_for(UBLK_IO_OP_READ, 0, kMiB + 512));
  EXPECT_TRUE(rule.is_for(UBLK_IO_OP_WRITE, 2 * kMiB - 512, 4096));
  EXPECT_FALSE(rule.is_for(UBLK_IO_OP_WRITE, 2 * kMiB, 4096));
  EXPECT_FALSE(rule.is_for(UBLK_IO_OP_FLUSH, 0, 0)) << "it has no bytes";
  EXPECT_TRUE(rule_of("error=EIO").is_for(UBLK_IO_OP_FLUSH, 0, 0));
  EXPECT_FALSE(rule_of("op=read,error=EIO").is_for(UBLK_IO_OP_WRITE, 0, 512));
  const FaultRule failed = rule_of("failed=bpf,error=EIO");
  EXPECT_FALSE(failed.is_for(UBLK_IO_OP_READ, 0, 512));
  EXPECT_TRUE(failed.is_for(UBLK_IO_OP_READ, 0, 512, true));
  EXPECT_TRUE(rule_of("error=EIO").is_for(UBLK_IO_OP_READ, 0, 512, true));
}

TEST(FaultRule, HitsAtItsRateTheSameForTheSameSeed) {
  const auto hits = [](const char* text) {
    const FaultRule rule = rule_of(text);
    std::vector<bool> all;
    for (uint64_t n = 0; n < 100000; n++) all.push_back(rule.hits(n));
    return all;
  };
  const auto first = hits("error=EIO,rate=0.1,seed=1");
  const auto count = std::count(first.begin(), first.end(), true);
  EXPECT_GT(count, 9500);
  EXPECT_LT(count, 10500);
  EXPECT_EQ(first, hits("error=EIO,rate=0.1,seed=1"));
  EXPECT_NE(first, hits("error=EIO,rate=0.1,seed=2"));
  const auto always = hits("error=EIO");
  EXPECT_EQ(std::count(always.begin(), always.end(), false), 0);
}

TargetSpec fault_spec(const char* over, std::vector<std::string> rules) {
  TargetSpec spec;
  spec.type = "fault";
  spec.over = over;
  spec.faults = std::move(rules);
  spec.max_io_bytes = kMiB;
  if (spec.over == "loop") {
    spec.files = {testing::TempDir() +
                  fmt("ublk-bpf-fault-{}.img", ::getpid())};
    std::ofstream(spec.files[0]).close();
    std::filesystem::resize_file(spec.files[0], 4 * kMiB);
    spec.buffered = true;
  }
  return spec;
}

class Fault : public testing::Test {
 protected:
  void open(const char* over, std::vector<std::string> rules) {
    auto target = open_target(fault_spec(over, std::move(rules)));
    ASSERT_TRUE(target) << target.error().line();
    target_ = std::move(*target);
    io_.desc = &desc_;
    io_.buf = buffer_;
  }
  // Of 8 sectors.
  std::optional<int> start(uint32_t op, uint64_t sector = 0) {
    desc_ = {};
    desc_.op_flags = op;
    desc_.nr_sectors = 8;
    desc_.start_sector = sector;
    sqe_ = {};
    return target_.ops->start(target_, io_, &sqe_);
  }
  std::optional<int> done(int res) {
    sqe_ = {};
    return target_.ops->done(target_, io_, res, &sqe_);
  }

  Target target_;
  ublksrv_io_desc desc_{};
  std::byte buffer_[4096];
  Io io_;
  io_uring_sqe sqe_{};
};

TEST_F(Fault, ServesAsTheInnerTargetWhereNoRuleApplies) {
  open("loop", {"op=write,error=EIO"});
  EXPECT_EQ(target_.params.basic.dev_sectors, 4 * kMiB / 512);
  EXPECT_EQ(target_.files.size(), 1U);
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(sqe_.opcode, IORING_OP_READ);
  EXPECT_EQ(*done(4096), 4096);
  open("null", {"op=write,error=EIO"});
  EXPECT_EQ(*start(UBLK_IO_OP_READ), 4096);
}

TEST_F(Fault, FailsWithoutDoingIt) {
  open("loop", {"op=write,error=ENOSPC", "range=1M-,error=EIO"});
  EXPECT_EQ(*start(UBLK_IO_OP_WRITE, 4096), -ENOSPC)
      << "the first that applies";
  EXPECT_EQ(*start(UBLK_IO_OP_READ, 2048), -EIO);
  EXPECT_FALSE(start(UBLK_IO_OP_READ, 2040));
}

TEST_F(Fault, SeesWhatHasFailedInAProgram) {
  open("loop", {"failed=bpf,error=ENOSPC"});
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(*start(UBLK_IO_OP_READ | UBLK_IO_F_BPF_FAILED), -ENOSPC);
  open("loop", {"op=flush,error=EIO"});
  EXPECT_FALSE(start(UBLK_IO_OP_READ | UBLK_IO_F_BPF_FAILED))
      << "loop serves it as any other";
  EXPECT_EQ(sqe_.opcode, IORING_OP_READ);
}

TEST_F(Fault, DelaysWithATimeoutAndThenDoesIt) {
  open("loop", {"op=read,delay=5ms"});
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(sqe_.opcode, IORING_OP_TIMEOUT);
  EXPECT_TRUE(sqe_.timeout_flags & IORING_TIMEOUT_ETIME_SUCCESS);
  const auto* time = reinterpret_cast<const __kernel_timespec*>(sqe_.addr);
  EXPECT_EQ(time->tv_nsec, 5000000);
  EXPECT_FALSE(done(-ETIME));
  EXPECT_EQ(sqe_.opcode, IORING_OP_READ);
  EXPECT_EQ(sqe_.len, 4096U);
  EXPECT_EQ(*done(4096), 4096) << "the file's answer, not the timeout's";
}

TEST_F(Fault, DelaysWhatFailsAndWhatTheInnerTargetDoesAtOnce) {
  open("null", {"op=read,delay=5ms,error=EIO", "op=write,delay=1s"});
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(*done(-ETIME), -EIO);
  EXPECT_FALSE(start(UBLK_IO_OP_WRITE));
  EXPECT_EQ(*done(-ETIME), 4096);
  EXPECT_FALSE(start(UBLK_IO_OP_WRITE));
  EXPECT_EQ(*done(-ECANCELED), -ECANCELED) << "the ring is going away";
  EXPECT_EQ(*start(UBLK_IO_OP_FLUSH), 0) << "nothing is left of the last one";
}

TEST_F(Fault, ShortIoIsContinued) {
  open("loop", {"short=512"});
  EXPECT_FALSE(start(UBLK_IO_OP_READ));
  EXPECT_EQ(sqe_.len, 512U);
  EXPECT_FALSE(done(512));
  EXPECT_EQ(sqe_.off, 512U);
  EXPECT_EQ(sqe_.len, 3584U);
  EXPECT_EQ(*done(3584), 4096);
  EXPECT_FALSE(start(UBLK_IO_OP_DISCARD));
  EXPECT_EQ(sqe_.addr, 4096U) << "only what transfers data can be short";
}

TEST(OpenFault, RefusesWhatDoesNotGoTogether) {
  TargetSpec four_k = fault_spec("loop", {"short=512"});
  four_k.block_bytes = 4096;
  TargetSpec loop = fault_spec("loop", {"error=EIO"});
  loop.type = "loop";
  const std::pair<TargetSpec, const char*> cases[] = {
      {fault_spec("null", {}), "needs a rule"},
      {fault_spec("", {"error=EIO"}), "--over TARGET"},
      {fault_spec("tape", {"error=EIO"}), "no target 'tape'"},
      {fault_spec("fault", {"error=EIO"}), "cannot be over fault"},
      {fault_spec("null", {"error=EBOGUS"}), "EBOGUS"},
      {fault_spec("null", {"short=512"}), "target null has no file"},
      {four_k, "block size 4096"},
      {loop, "takes no --over"},
  };
  for (const auto& [spec, words] : cases) {
    const auto target = open_target(spec);
    ASSERT_FALSE(target) << words;
    EXPECT_EQ(target.error().code(), EINVAL);
    EXPECT_NE(target.error().line().find(words), std::string::npos)
        << target.error().line();
  }
}

}  // namespace
}  // namespace ublk
