// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sys/error.h"

namespace ublk {

inline constexpr unsigned kSectorShift = 9;

// "4096", "64K", "1M", "10G", "2T": bytes, with factors of 1024. An "i" and a
// "B" after the letter are accepted: "64KiB".
Result<uint64_t> parse_size(std::string_view text);

constexpr bool is_power_of_2(uint64_t n) { return n && !(n & (n - 1)); }
// Of a power of two.
constexpr uint8_t shift_of(uint64_t n) {
  uint8_t shift = 0;
  while (n > 1) {
    n >>= 1;
    shift++;
  }
  return shift;
}

}  // namespace ublk
