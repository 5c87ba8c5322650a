// SPDX-License-Identifier: MIT
#include "device/driver_flags.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "sys/ublk_cmd.h"

namespace ublk {
namespace {

TEST(DriverFlags, WhatTheDriverHasMayBeWanted) {
  EXPECT_TRUE(check_wanted(0, 0));
  EXPECT_TRUE(check_wanted(UBLK_F_USER_RECOVERY,
                           UBLK_F_USER_RECOVERY | UBLK_F_USER_COPY));
}

TEST(DriverFlags, WhatTheDriverLacksIsRefusedByName) {
  struct Case {
    uint64_t flag;
    const char* name;
  };
  for (const Case& one :
       {Case{UBLK_F_USER_RECOVERY, "UBLK_F_USER_RECOVERY "},
        Case{UBLK_F_USER_RECOVERY_REISSUE, "UBLK_F_USER_RECOVERY_REISSUE"},
        Case{UBLK_F_USER_RECOVERY_FAIL_IO, "UBLK_F_USER_RECOVERY_FAIL_IO"},
        Case{UBLK_F_NO_AUTO_PART_SCAN, "UBLK_F_NO_AUTO_PART_SCAN"}}) {
    const auto checked = check_wanted(one.flag, ~one.flag);
    ASSERT_FALSE(checked);
    EXPECT_EQ(checked.error().code(), EOPNOTSUPP);
    EXPECT_NE(checked.error().line().find(one.name), std::string::npos)
        << checked.error().line();
    EXPECT_FALSE(checked.error().hint_text().empty());
  }
}

}  // namespace
}  // namespace ublk
