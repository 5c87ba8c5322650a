// SPDX-License-Identifier: MIT
#include "sys/names.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace ublk {
namespace {

TEST(Names, AreShownInOneLine) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"", ""},
      {"/a b.img", "/a b.img"},
      {"a\nb\tc", R"(a\nb\tc)"},
      {"\x1b[31m\r\x7f", R"(\x1b[31m\x0d\x7f)"},
      {"größe €𝄞", "größe €𝄞"},
      {"\xff\xfe", R"(\xff\xfe)"},
      {"\xc2\x9b", R"(\xc2\x9b)"},          // a terminal's escape, too
      {"\xe2\x82", R"(\xe2\x82)"},          // cut short
      {"\xc0\xaf", R"(\xc0\xaf)"},          // too long
      {"\xed\xa0\x80", R"(\xed\xa0\x80)"},  // a surrogate
      {"\xf4\x90\x80\x80", R"(\xf4\x90\x80\x80)"},
      {std::string_view("\0", 1), R"(\x00)"},
  };
  for (const auto& [name, shown] : cases) {
    EXPECT_EQ(one_line(name), shown);
    EXPECT_EQ(shown_name(name), shown);
  }
  // \n and a newline are two names.
  EXPECT_EQ(shown_name(R"(a\nb)"), R"(a\\nb)");
  EXPECT_EQ(one_line(R"(a\nb)"), R"(a\nb)");
}

TEST(Names, OfAnyBytesComeBack) {
  std::string all;
  for (int c = 0; c < 256; c++) all += static_cast<char>(c);
  for (const std::string& name : {all, std::string(), std::string("/50%")}) {
    const std::string encoded = percent_encoded(name);
    EXPECT_TRUE(is_utf8(encoded));
    EXPECT_EQ(one_line(encoded), encoded);
    const auto back = percent_decoded(encoded);
    ASSERT_TRUE(back) << back.error().line();
    EXPECT_EQ(*back, name);
  }
  EXPECT_EQ(percent_encoded("/50%\xff"), "/50%25%FF");
  for (const char* bad : {"%", "%f", "%fg", "%-1", "% 1", "a%zz"})
    EXPECT_EQ(percent_decoded(bad).error().code(), EPROTO) << bad;
}

}  // namespace
}  // namespace ublk
