// SPDX-License-Identifier: MIT
#include "server/fault_rule.h"

#include <string.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <set>

#include "ctrl/control.h"
#include "sys/sizes.h"
#include "sys/ublk_cmd.h"

namespace ublk {

namespace {

constexpr std::array<uint8_t, 5> kOps = {UBLK_IO_OP_READ, UBLK_IO_OP_WRITE,
                                         UBLK_IO_OP_FLUSH, UBLK_IO_OP_DISCARD,
                                         UBLK_IO_OP_WRITE_ZEROES};
constexpr int kMostErrno = 133;
constexpr uint64_t kNsPerSecond = 1000000000;
constexpr uint64_t kMostDelayNs = 3600 * kNsPerSecond;

// Takes what stands before the separator, and the separator, off the text.
std::string_view next_of(std::string_view& text, char separator) {
  const auto at = text.find(separator);
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
  return part;
}

Result<void> set_ops(FaultRule& rule, std::string_view text) {
  rule.ops = 0;
  std::string names;
  for (const uint8_t op : kOps)
    names += (names.empty() ? "" : ", ") + op_name(op);
  // One that is empty at the end is one more part.
  for (bool more = true; more;) {
    more = text.contains('+');
    const std::string_view name = next_of(text, '+');
    uint32_t bit = 0;
    for (const uint8_t op : kOps)
      if (op_name(op) == name) bit = 1U << op;
    if (!bit)
      return fail(EINVAL, "'{}' is not one of: {}; several are joined by +",
                  name, names);
    rule.ops |= bit;
  }
  return {};
}

template <typename T>
bool whole_number(std::string_view text, T& value) {
  const auto [end, ec] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  return ec == std::errc() && end == text.data() + text.size();
}

Result<void> set_rate(FaultRule& rule, std::string_view text) {
  if (whole_number(text, rule.rate) && rule.rate > 0 && rule.rate <= 1)
    return {};
  return fail(EINVAL, "'{}' is not a number above 0, up to 1", text);
}

Result<void> set_seed(FaultRule& rule, std::string_view text) {
  if (whole_number(text, rule.seed)) return {};
  return fail(EINVAL, "'{}' is not a number", text);
}

Result<void> set_range(FaultRule& rule, std::string_view text) {
  const auto at = text.find_first_of("-+");
  if (at == std::string_view::npos)
    return fail(EINVAL, "'{}' is neither FROM-TO, FROM- nor FROM+LENGTH", text);
  const std::string_view second = text.substr(at + 1);
  rule.has_range = true;
  rule.first_bytes = TRY(parse_size(text.substr(0, at)));
  if (text[at] == '-' && second.empty()) return {};
  rule.end_bytes = TRY(parse_size(second));
  if (text[at] == '+' &&
      __builtin_add_overflow(rule.first_bytes, rule.end_bytes, &rule.end_bytes))
    return fail(ERANGE, "'{}' ends past all devices", text);
  if (rule.end_bytes <= rule.first_bytes)
    return fail(EINVAL, "'{}' has no bytes", text);
  return {};
}

Result<void> set_failed(FaultRule& rule, std::string_view text) {
  if (text != "bpf") return fail(EINVAL, "'{}' is not bpf", text);
  rule.only_failed = true;
  return {};
}

Result<void> set_delay(FaultRule& rule, std::string_view text) {
  constexpr std::pair<std::string_view, uint64_t> units[] = {
      {"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", kNsPerSecond}};
  uint64_t number = 0, ns = 0;
  const auto [end, ec] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit = text.substr(end - text.data());
  bool known = false;
  for (const auto& [name, factor] : units)
    if (unit == name) known = !__builtin_mul_overflow(number, factor, &ns);
  if (ec != std::errc() || !known || ns == 0 || ns > kMostDelayNs)
    return fail(EINVAL, "'{}' is not a time above 0, up to 3600s: 5ms, 200us",
                text);
  rule.delay.tv_sec = static_cast<int64_t>(ns / kNsPerSecond);
  rule.delay.tv_nsec = static_cast<int64_t>(ns % kNsPerSecond);
  return {};
}

Result<void> set_error(FaultRule& rule, std::string_view text) {
  for (int code = 1; code <= kMostErrno; code++)
    if (text == errno_name(code) || text == std::to_string(code)) {
      rule.error = code;
      return {};
    }
  return fail(EINVAL, "'{}' is not an errno, such as EIO or ENOSPC", text);
}

Result<void> set_short(FaultRule& rule, std::string_view text) {
  const uint64_t bytes = TRY(parse_size(text));
  if (bytes == 0 || bytes % 512 || bytes > (32U << 20))
    return fail(EINVAL, "'{}' is not a multiple of 512 up to 32M", text);
  rule.short_bytes = static_cast<uint32_t>(bytes);
  return {};
}

struct Part {
  std::string_view name;
  Result<void> (*set)(FaultRule& rule, std::string_view text);
};
constexpr Part kParts[] = {{"op", set_ops},        {"range", set_range},
                           {"failed", set_failed}, {"rate", set_rate},
                           {"seed", set_seed},     {"delay", set_delay},
                           {"error", set_error},   {"short", set_short}};

Result<FaultRule> parse(std::string_view text) {
  FaultRule rule;
  std::set<std::string_view> seen;
  while (!text.empty()) {
    std::string_view value = next_of(text, ',');
    const std::string_view name = next_of(value, '=');
    const Part* part = nullptr;
    std::string names;
    for (const Part& each : kParts) {
      if (each.name == name) part = &each;
      names += (names.empty() ? "" : ", ") + std::string(each.name);
    }
    if (!part) return fail(EINVAL, "'{}' is not one of: {}", name, names);
    if (!seen.insert(name).second) return fail(EINVAL, "{}: given twice", name);
    TRY_IN(name, part->set(rule, value));
  }
  if (!rule.delays() && !rule.error && !rule.short_bytes)
    return fail(EINVAL, "says not what is to go wrong: delay, error or short");
  if (rule.error && rule.short_bytes)
    return fail(EINVAL, "error and short exclude each other");
  return rule;
}

}  // namespace

bool FaultRule::is_for(uint8_t op, uint64_t start_bytes, uint64_t len_bytes,
                       bool failed) const {
  if (op >= 32 || !(ops & (1U << op)) || (only_failed && !failed)) return false;
  return !has_range ||
         (start_bytes < end_bytes && start_bytes + len_bytes > first_bytes);
}

bool FaultRule::hits(uint64_t nth) const {
  // splitmix64: any two numbers, however close, give unrelated ones.
  uint64_t z = seed + (nth + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53 < rate;
}

Result<FaultRule> parse_fault_rule(std::string_view text) {
  return TRY_IN(fmt("--fault '{}'", text), parse(text));
}

}  // namespace ublk
