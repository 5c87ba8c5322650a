// SPDX-License-Identifier: MIT
#include "sys/cpu_list.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace ublk {
namespace {

using Cpus = std::vector<uint16_t>;

TEST(CpuList, IsWhatCpusetHas) {
  EXPECT_EQ(parse_cpu_list("0"), Cpus{0});
  EXPECT_EQ(parse_cpu_list("8,0-2,1"), (Cpus{0, 1, 2, 8}));
  EXPECT_EQ(parse_cpu_list("1023"), Cpus{1023});
  EXPECT_EQ(cpu_list({0, 1, 2, 8}), "0-2,8");
  EXPECT_EQ(cpu_list({}), "");
  EXPECT_EQ(cpus_of(cpu_set_of({3, 7})), (Cpus{3, 7}));
}

TEST(CpuList, RefusesWhatIsNone) {
  for (const char* bad : {"", "x", "1,", ",1", "3-1", "0-1024", "1024", "-1",
                          "1-", "0 1", "1;2", "99999999999"}) {
    const auto cpus = parse_cpu_list(bad);
    ASSERT_FALSE(cpus) << bad;
    EXPECT_EQ(cpus.error().code(), EINVAL) << bad;
  }
}

}  // namespace
}  // namespace ublk
