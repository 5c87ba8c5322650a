// SPDX-License-Identifier: MIT
#include "prog/scan_value.h"

#include <algorithm>

namespace ublk {

namespace {

constexpr size_t kMostValues = 16;

bool is_wide(uint8_t code) { return BPF_CLASS(code) == BPF_ALU64; }

uint64_t mask_of(bool wide) { return wide ? UINT64_MAX : UINT32_MAX; }

std::optional<uint64_t> computed(uint8_t code, uint64_t a, uint64_t b) {
  const bool wide = is_wide(code);
  const uint64_t mask = mask_of(wide);
  const uint64_t shift = b & (wide ? 63 : 31);
  a &= mask;
  b &= mask;
  switch (BPF_OP(code)) {
    case BPF_MOV:
      return b;
    case BPF_ADD:
      return (a + b) & mask;
    case BPF_SUB:
      return (a - b) & mask;
    case BPF_MUL:
      return (a * b) & mask;
    case BPF_AND:
      return a & b;
    case BPF_OR:
      return a | b;
    case BPF_XOR:
      return a ^ b;
    case BPF_LSH:
      return (a << shift) & mask;
    case BPF_RSH:
      return a >> shift;
    default:
      return std::nullopt;
  }
}

// How large the result can be where the values are not known one by one.
uint64_t most_of(uint8_t code, const ScanValue& to, const ScanValue& by) {
  const uint64_t mask = mask_of(is_wide(code));
  switch (BPF_OP(code)) {
    case BPF_MOV:
      return std::min(by.most, mask);
    case BPF_AND:
      return std::min({to.most, by.most, mask});
    case BPF_RSH:
      return std::min(to.most, mask);
    default:
      return mask;
  }
}

ScanValue moved_address(uint8_t code, const ScanValue& to,
                        const ScanValue& by) {
  const bool known = to.offset && by.single();
  const auto change = static_cast<int64_t>(by.single().value_or(0));
  if (is_wide(code) && BPF_OP(code) == BPF_ADD && known)
    return ScanValue::address(to.kind, *to.offset + change);
  if (is_wide(code) && BPF_OP(code) == BPF_SUB && known)
    return ScanValue::address(to.kind, *to.offset - change);
  return ScanValue::address(to.kind, std::nullopt);
}

// nullopt: by numbers with a sign, or by bits, which is not followed.
std::optional<bool> comes_out(uint8_t code, uint64_t a, uint64_t b,
                              uint64_t mask) {
  const bool positive = a <= mask / 2 && b <= mask / 2;
  switch (BPF_OP(code)) {
    case BPF_JEQ:
      return a == b;
    case BPF_JNE:
      return a != b;
    case BPF_JSET:
      return (a & b) != 0;
    case BPF_JSGT:
      if (!positive) return std::nullopt;
      [[fallthrough]];
    case BPF_JGT:
      return a > b;
    case BPF_JSGE:
      if (!positive) return std::nullopt;
      [[fallthrough]];
    case BPF_JGE:
      return a >= b;
    case BPF_JSLT:
      if (!positive) return std::nullopt;
      [[fallthrough]];
    case BPF_JLT:
      return a < b;
    case BPF_JSLE:
      if (!positive) return std::nullopt;
      [[fallthrough]];
    case BPF_JLE:
      return a <= b;
    default:
      return std::nullopt;
  }
}

}  // namespace

ScanValue ScanValue::any(uint64_t most) {
  ScanValue value;
  value.most = most;
  if (most < kMostValues)
    for (uint64_t each = 0; each <= most; each++) value.values.push_back(each);
  return value;
}

ScanValue ScanValue::constant(uint64_t constant) {
  return of({constant}, constant);
}

ScanValue ScanValue::address(Kind kind, std::optional<int64_t> offset) {
  ScanValue value;
  value.kind = kind;
  value.offset = offset;
  return value;
}

ScanValue ScanValue::of(std::vector<uint64_t> values, uint64_t most) {
  std::ranges::sort(values);
  const auto twice = std::ranges::unique(values);
  values.erase(twice.begin(), twice.end());
  if (values.empty() || values.size() > kMostValues) return any(most);
  ScanValue value;
  value.most = values.back();
  value.values = std::move(values);
  return value;
}

std::optional<uint64_t> ScanValue::single() const {
  if (kind != Kind::scalar || values.size() != 1) return std::nullopt;
  return values.front();
}

ScanValue ScanValue::joined(const ScanValue& other) const {
  if (*this == other) return *this;
  // What may be in the frame is not lost sight of.
  for (const ScanValue* value : {this, &other})
    if (value->kind == Kind::stack) return address(Kind::stack, std::nullopt);
  if (kind != Kind::scalar || other.kind != Kind::scalar) return any();
  // Of a loop's counter the bound is not approached one by one.
  const uint64_t least = std::max(most, other.most);
  const uint64_t bound = most == other.most    ? most
                         : least <= UINT8_MAX  ? uint64_t{UINT8_MAX}
                         : least <= UINT32_MAX ? uint64_t{UINT32_MAX}
                                               : UINT64_MAX;
  ScanValue both = any(bound);
  if (is_known() && other.is_known()) {
    auto all = values;
    all.insert(all.end(), other.values.begin(), other.values.end());
    both = of(std::move(all), bound);
  }
  both.is_op = is_op && other.is_op;
  return both;
}

ScanValue scan_arithmetic(uint8_t code, const ScanValue& to,
                          const ScanValue& by) {
  using Kind = ScanValue::Kind;
  const bool is_move = BPF_OP(code) == BPF_MOV;
  if (is_move && (is_wide(code) || by.is_op)) return by;
  if (!is_move && to.kind != Kind::scalar && by.kind == Kind::scalar)
    return moved_address(code, to, by);
  for (const ScanValue* value : {&to, &by})
    if (value->kind == Kind::stack && !(is_move && value == &to))
      return ScanValue::address(Kind::stack, std::nullopt);
  const uint64_t most = most_of(code, to, by);
  const bool known = by.is_known() && (is_move || to.is_known());
  if (!known) return ScanValue::any(most);
  std::vector<uint64_t> results;
  for (const uint64_t a : is_move ? std::vector<uint64_t>{0} : to.values)
    for (const uint64_t b : by.values) {
      const auto result = computed(code, a, b);
      if (!result) return ScanValue::any(most);
      results.push_back(*result);
    }
  return ScanValue::of(std::move(results), mask_of(is_wide(code)));
}

std::optional<ScanValue> scan_compared(uint8_t code, const ScanValue& value,
                                       const ScanValue& by, bool taken) {
  const uint64_t mask = mask_of(BPF_CLASS(code) == BPF_JMP);
  const auto bound = by.single();
  if (value.kind != ScanValue::Kind::scalar || value.most > mask || !bound)
    return value;
  const uint64_t b = *bound & mask;
  if (value.is_known()) {
    std::vector<uint64_t> left;
    for (const uint64_t a : value.values)
      if (comes_out(code, a, b, mask).value_or(taken) == taken)
        left.push_back(a);
    if (left.empty()) return std::nullopt;
    ScanValue some = ScanValue::of(std::move(left), value.most);
    some.is_op = value.is_op;
    return some;
  }
  // Where it holds of 0 and not of the largest, it holds up to a bound.
  const auto holds = [&](uint64_t a) {
    return comes_out(code, a, b, mask) == taken;
  };
  ScanValue some = value;
  const bool equal = BPF_OP(code) == (taken ? BPF_JEQ : BPF_JNE);
  const bool ordered = BPF_OP(code) != BPF_JEQ && BPF_OP(code) != BPF_JNE &&
                       BPF_OP(code) != BPF_JSET;
  if (equal)
    some = ScanValue::constant(b);
  else if (ordered && comes_out(code, value.most, b, mask) == !taken)
    some = holds(b)            ? ScanValue::any(std::min(b, value.most))
           : b > 0 && holds(0) ? ScanValue::any(std::min(b - 1, value.most))
                               : value;
  some.is_op = value.is_op;
  return some;
}

}  // namespace ublk
