// SPDX-License-Identifier: MIT
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace ublk {

// What a register can hold, as far as scan.h follows it.
struct ScanValue {
  // `stack` and `context` are addresses: in the frame of the function, and of
  // its context.
  enum class Kind { scalar, stack, context };
  Kind kind = Kind::scalar;
  // A scalar: the few values that it can have, sorted; empty if there are more,
  // none of which is above `most`.
  std::vector<uint64_t> values{};
  uint64_t most = UINT64_MAX;
  // An address: where it is, if that is known.
  std::optional<int64_t> offset{};
  // Is the operation of the request, as read from the context.
  bool is_op = false;

  static ScanValue any(uint64_t most = UINT64_MAX);
  static ScanValue constant(uint64_t value);
  static ScanValue address(Kind kind, std::optional<int64_t> offset);
  // Sorts them, and gives up if they are too many.
  static ScanValue of(std::vector<uint64_t> values, uint64_t most);

  bool is_known() const { return kind == Kind::scalar && !values.empty(); }
  std::optional<uint64_t> single() const;
  // All that this one can be or `other` can.
  ScanValue joined(const ScanValue& other) const;
  bool operator==(const ScanValue&) const = default;
};

// What an arithmetic instruction makes of `to` and `by`.
ScanValue scan_arithmetic(uint8_t code, const ScanValue& to,
                          const ScanValue& by);

// What is left of `value` where the comparison of `code` with `by` comes out as
// `taken`; nothing if it cannot.
std::optional<ScanValue> scan_compared(uint8_t code, const ScanValue& value,
                                       const ScanValue& by, bool taken);

}  // namespace ublk
