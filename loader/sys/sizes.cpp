// SPDX-License-Identifier: MIT
#include "sys/sizes.h"

#include <cerrno>
#include <charconv>
#include <limits>

namespace ublk {

namespace {

// The power of two of a suffix; -1 if it is none.
int suffix_shift(std::string_view suffix) {
  if (suffix.empty() || suffix == "B") return 0;
  constexpr std::string_view letters = "KMGTP";
  const char letter =
      suffix[0] >= 'a' ? static_cast<char>(suffix[0] - 'a' + 'A') : suffix[0];
  const auto index = letters.find(letter);
  const std::string_view rest = suffix.substr(1);
  if (index == std::string_view::npos) return -1;
  if (!rest.empty() && rest != "B" && rest != "iB" && rest != "ib" &&
      rest != "b")
    return -1;
  return static_cast<int>(index + 1) * 10;
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  uint64_t number = 0;
  const auto [end, ec] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (ec == std::errc::result_out_of_range)
    return fail(ERANGE, "size '{}' is too large", text);
  const int shift = suffix_shift(text.substr(end - text.data()));
  if (ec != std::errc() || shift < 0)
    return fail(EINVAL,
                "'{}' is not a size, which is a number of bytes or one "
                "with K, M, G, T or P",
                text);
  if (number > std::numeric_limits<uint64_t>::max() >> shift)
    return fail(ERANGE, "size '{}' is too large", text);
  return number << shift;
}

}  // namespace ublk
