// SPDX-License-Identifier: MIT
#include "layer/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace ublk {
namespace {

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(Crc32c, IsThatOfTheStandard) {
  std::string up;
  for (int i = 0; i < 32; i++) up += static_cast<char>(i);
  const std::string down(up.rbegin(), up.rend());
  // RFC 3720, B.4, and what every description of it has.
  const std::pair<std::string, uint32_t> cases[] = {
      {std::string(32, '\0'), 0x8a9136aa},
      {std::string(32, '\xff'), 0x62a8ab43},
      {up, 0x46dd794e},
      {down, 0x113fdb5c},
      {"123456789", 0xe3069283},
      {"", 0}};
  for (const auto& [text, crc] : cases) {
    EXPECT_EQ(crc32c(bytes(text)), crc);
    EXPECT_EQ(crc32c_by_table(bytes(text)), crc);
  }
}

TEST(Crc32c, CanBeTakenInParts) {
  std::string text;
  for (int i = 0; i < 50; i++) text += static_cast<char>(i * 7);
  for (size_t at = 0; at <= text.size(); at++) {
    const std::string a = text.substr(0, at), b = text.substr(at);
    EXPECT_EQ(crc32c(bytes(b), crc32c(bytes(a))), crc32c(bytes(text)));
    EXPECT_EQ(crc32c_by_table(bytes(b), crc32c(bytes(a))), crc32c(bytes(text)));
  }
}

}  // namespace
}  // namespace ublk
