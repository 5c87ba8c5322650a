// SPDX-License-Identifier: MIT
#include "sys/error.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "sys/sizes.h"

namespace ublk {
namespace {

TEST(Error, TurnsNegativeResultsIntoErrnos) {
  EXPECT_EQ(errno_of(-EBUSY), EBUSY);
  EXPECT_EQ(errno_of(-4095), 4095);
  EXPECT_EQ(errno_of(0), 0);
  EXPECT_EQ(errno_of(512), 0);
  EXPECT_EQ(errno_of(-4096), 0) << "no errno is that large";
  EXPECT_EQ(negative(EIO), -EIO);
  EXPECT_EQ(negative(-EIO), -EIO);
}

TEST(Error, ReadsObjectAttemptErrnoHint) {
  const Error error = Error::sys(EACCES, "mmap of the io descriptors")
                          .in("queue 1")
                          .in("ublkb3")
                          .hint("run as root");
  EXPECT_EQ(error.line(),
            "ublkb3: queue 1: mmap of the io descriptors: Permission denied: "
            "run as root");
  EXPECT_EQ(error.code_name(), "EACCES");
}

TEST(Error, SaysWhatIsKnownBeforehandWithoutTheErrnoText) {
  const Error error = Error::plain(EINVAL, "x.o: is not an ELF file");
  EXPECT_EQ(error.line(), "x.o: is not an ELF file");
  EXPECT_EQ(error.code(), EINVAL);
}

TEST(Error, KeepsTheInnermostHint) {
  const Error error = Error::plain(EIO, "it").hint("inner").hint("outer");
  EXPECT_EQ(error.hint_text(), "inner");
}

Result<int> half(int n) {
  if (n % 2) return fail_sys(EDOM, "half of {}", n);
  return n / 2;
}

Result<int> quarter(int n) {
  const int once = TRY(half(n));
  return TRY_IN("second", half(once));
}

TEST(Error, TryGivesTheValueOrReturnsTheError) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(3).error().message(),
            "half of 3: Numerical argument out of domain");
  EXPECT_EQ(quarter(6).error().message(),
            "second: half of 3: Numerical argument out of domain");
}

struct SizeCase {
  const char* text;
  uint64_t bytes;
};

TEST(Sizes, AreBytesOrHaveASuffix) {
  constexpr SizeCase cases[] = {
      {"0", 0},           {"512", 512},       {"512B", 512},
      {"4K", 4096},       {"4k", 4096},       {"1M", 1 << 20},
      {"64KiB", 65536},   {"3MB", 3 << 20},   {"2G", 2ULL << 30},
      {"1T", 1ULL << 40}, {"1P", 1ULL << 50}, {"18446744073709551615", ~0ULL},
  };
  for (const auto& [text, bytes] : cases) {
    auto parsed = parse_size(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(Sizes, OfAnyOtherFormAreRefused) {
  for (const char* text : {"", "K", "12x", "-1", "1.5G", "1KK", " 1", "0x10"})
    EXPECT_EQ(parse_size(text).error().code(), EINVAL) << text;
  for (const char* text : {"18446744073709551616", "17179869184G"})
    EXPECT_EQ(parse_size(text).error().code(), ERANGE) << text;
}

TEST(Sizes, ShiftOfAPowerOfTwo) {
  EXPECT_EQ(shift_of(1), 0);
  EXPECT_EQ(shift_of(512), 9);
  EXPECT_EQ(shift_of(4096), 12);
  EXPECT_TRUE(is_power_of_2(4096));
  EXPECT_FALSE(is_power_of_2(0));
  EXPECT_FALSE(is_power_of_2(4097));
}

}  // namespace
}  // namespace ublk
