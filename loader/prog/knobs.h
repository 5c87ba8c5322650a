// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sys/error.h"

struct btf;

namespace ublk {

// A `const volatile` variable of a program: an integer, a bool or an enum.
struct Knob {
  enum class Kind { integer, boolean, enumeration };
  std::string name;
  Kind kind = Kind::integer;
  bool is_signed = false;
  uint32_t size_bytes = 0;    // 1, 2, 4 or 8
  uint32_t offset_bytes = 0;  // in .rodata
  std::map<std::string, int64_t> enumerators;
};

// The knobs of an object that is not loaded yet. Borrows the bytes of its
// .rodata.
class Knobs {
 public:
  // Variables that are not `const volatile` scalars are left out: constants
  // the compiler has already used, tables, strings.
  static Knobs find(const btf* types, std::span<std::byte> rodata);

  const std::vector<Knob>& all() const { return knobs_; }
  const Knob* get(std::string_view name) const;
  // ENOENT: no such knob, the ones that there are are listed.
  // EINVAL: not a value of its type. ERANGE: does not fit.
  // Integers take 0x and the suffixes of sizes: 64K.
  Result<void> set(std::string_view name, std::string_view value);
  // Every knob's value, as JSON text.
  std::map<std::string, std::string> values() const;

 private:
  uint64_t load(const Knob& knob) const;
  void store(const Knob& knob, uint64_t value);

  std::vector<Knob> knobs_;
  std::span<std::byte> rodata_;
};

// "u64", "s32", "bool", "enum".
std::string knob_type(const Knob& knob);

}  // namespace ublk
