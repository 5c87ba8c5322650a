// SPDX-License-Identifier: MIT
#include "sys/device_name.h"

#include <algorithm>
#include <cerrno>

#include "sys/names.h"

namespace ublk {

namespace {

constexpr size_t kMostBytes = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_number(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, is_digit);
}

}  // namespace

Result<void> check_device_name(const std::string& name) {
  const auto wrong = [&](const char* why) {
    return fail(EINVAL, "'{}': is not a name for a device: {}",
                shown_name(name), why);
  };
  if (name.empty() || name.size() > kMostBytes)
    return wrong("it has 1 to 64 characters");
  if (!is_alnum(name.front())) return wrong("it begins with a letter or digit");
  for (const char c : name)
    if (!is_alnum(c) && c != '.' && c != '_' && c != '-')
      return wrong("it has only letters, digits and . _ -");
  const std::string_view view = name;
  if (is_number(view)) return wrong("a number is the kernel's");
  for (const std::string_view prefix : {"ublkb", "ublkc"})
    if (view.starts_with(prefix) && is_number(view.substr(prefix.size())))
      return wrong("ublkbN is the kernel's");
  return {};
}

}  // namespace ublk
