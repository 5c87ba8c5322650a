// SPDX-License-Identifier: MIT
#include "prog/knobs.h"

#include <bpf/btf.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>

#include "sys/sizes.h"

namespace ublk {

namespace {

// Typedefs and qualifiers in a row, at most: btf__new() lets a ring of them
// through (btf.c has the same limit, as MAX_RESOLVE_DEPTH).
constexpr int kMaxResolveDepth = 32;

// The type behind typedefs and qualifiers, nullptr if there is none; whether
// one of these was volatile.
const btf_type* resolve(const btf* types, uint32_t id, bool& is_volatile) {
  for (int depth = 0; depth < kMaxResolveDepth; depth++) {
    const btf_type* type = btf__type_by_id(types, id);
    if (!type || !(btf_is_mod(type) || btf_is_typedef(type))) return type;
    is_volatile |= btf_is_volatile(type);
    id = type->type;
  }
  return nullptr;
}

void read_enumerators(const btf* types, const btf_type* type, Knob& knob) {
  for (int i = 0; i < btf_vlen(type); i++) {
    if (btf_is_enum64(type)) {
      const struct btf_enum64& e = btf_enum64(type)[i];
      knob.enumerators[btf__name_by_offset(types, e.name_off)] =
          static_cast<int64_t>(btf_enum64_value(&e));
    } else {
      const struct btf_enum& e = btf_enum(type)[i];
      knob.enumerators[btf__name_by_offset(types, e.name_off)] =
          knob.is_signed ? e.val : static_cast<uint32_t>(e.val);
    }
  }
}

std::optional<Knob> as_knob(const btf* types, const btf_type* var,
                            const btf_var_secinfo& at) {
  bool is_volatile = false;
  const btf_type* type = resolve(types, var->type, is_volatile);
  if (!type || !is_volatile) return std::nullopt;
  Knob knob;
  knob.name = btf__name_by_offset(types, var->name_off);
  knob.size_bytes = at.size;
  knob.offset_bytes = at.offset;
  if (btf_is_int(type)) {
    const uint8_t encoding = btf_int_encoding(type);
    knob.is_signed = encoding & BTF_INT_SIGNED;
    if (encoding & BTF_INT_BOOL) knob.kind = Knob::Kind::boolean;
  } else if (btf_is_any_enum(type)) {
    knob.kind = Knob::Kind::enumeration;
    knob.is_signed = btf_kflag(type);
    read_enumerators(types, type, knob);
  } else {
    return std::nullopt;
  }
  if (!is_power_of_2(knob.size_bytes) || knob.size_bytes > 8)
    return std::nullopt;
  return knob;
}

// A magnitude with the notations of parse_size() and 0x.
Result<uint64_t> parse_magnitude(std::string_view text) {
  if (!text.starts_with("0x") && !text.starts_with("0X"))
    return parse_size(text);
  uint64_t value = 0;
  const std::string_view digits = text.substr(2);
  const auto [end, ec] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (ec == std::errc::result_out_of_range)
    return fail(ERANGE, "{} is too large", text);
  if (ec != std::errc() || end != digits.data() + digits.size())
    return fail(EINVAL, "'{}' is not a number", text);
  return value;
}

Result<uint64_t> parse_integer(const Knob& knob, std::string_view text) {
  const bool minus = text.starts_with("-");
  auto parsed = parse_magnitude(minus ? text.substr(1) : text);
  if (!parsed && parsed.error().code() != ERANGE)
    return fail(EINVAL, "'{}' is not a number", text);
  const unsigned bits = knob.size_bytes * 8 - (knob.is_signed ? 1 : 0);
  const uint64_t most = bits == 64 ? std::numeric_limits<uint64_t>::max()
                                   : (uint64_t{1} << bits) - 1;
  // One more is there below zero.
  const uint64_t least = knob.is_signed ? most + 1 : 0;
  if (!parsed || *parsed > (minus ? least : most))
    return fail(ERANGE, "{} does not fit, it is {}{} to {}", text,
                knob.is_signed ? "-" : "", least, most);
  return minus ? 0 - *parsed : *parsed;
}

Result<uint64_t> parse_value(const Knob& knob, std::string_view text) {
  if (knob.kind == Knob::Kind::boolean) {
    for (std::string_view yes : {"1", "true", "yes", "on"})
      if (text == yes) return 1;
    for (std::string_view no : {"0", "false", "no", "off"})
      if (text == no) return 0;
    return fail(EINVAL, "'{}' is neither true nor false", text);
  }
  if (knob.kind == Knob::Kind::enumeration) {
    if (auto it = knob.enumerators.find(std::string(text));
        it != knob.enumerators.end())
      return static_cast<uint64_t>(it->second);
  }
  auto value = parse_integer(knob, text);
  if (!value && knob.kind == Knob::Kind::enumeration &&
      value.error().code() == EINVAL) {
    std::string names;
    for (const auto& [name, number] : knob.enumerators)
      names += (names.empty() ? "" : ", ") + name;
    return fail(EINVAL, "'{}' is not one of: {}", text, names);
  }
  return value;
}

}  // namespace

Knobs Knobs::find(const btf* types, std::span<std::byte> rodata) {
  Knobs knobs;
  knobs.rodata_ = rodata;
  const int id = btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC);
  if (id < 0) return knobs;
  const btf_type* section = btf__type_by_id(types, static_cast<uint32_t>(id));
  const btf_var_secinfo* vars = btf_var_secinfos(section);
  for (int i = 0; i < btf_vlen(section); i++) {
    const btf_type* var = btf__type_by_id(types, vars[i].type);
    if (!var || !btf_is_var(var)) continue;
    if (uint64_t{vars[i].offset} + vars[i].size > rodata.size()) continue;
    if (auto knob = as_knob(types, var, vars[i]))
      knobs.knobs_.push_back(std::move(*knob));
  }
  return knobs;
}

const Knob* Knobs::get(std::string_view name) const {
  for (const Knob& knob : knobs_)
    if (knob.name == name) return &knob;
  return nullptr;
}

Result<void> Knobs::set(std::string_view name, std::string_view value) {
  const Knob* knob = get(name);
  if (!knob) {
    std::string names;
    for (const Knob& k : knobs_)
      names +=
          fmt("{}{} ({})", names.empty() ? "" : ", ", k.name, knob_type(k));
    auto error = Error::plain(ENOENT, fmt("no knob '{}'", name));
    return std::unexpected(std::move(error).hint(
        names.empty() ? "this object has none" : "there are: " + names));
  }
  const uint64_t bits = TRY_IN(fmt("knob {} ({})", name, knob_type(*knob)),
                               parse_value(*knob, value));
  store(*knob, bits);
  return {};
}

uint64_t Knobs::load(const Knob& knob) const {
  uint64_t value = 0;
  // The low bytes come first on every machine that ublk's BPF part is for.
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(&value, rodata_.data() + knob.offset_bytes, knob.size_bytes);
  return value;
}

void Knobs::store(const Knob& knob, uint64_t value) {
  std::memcpy(rodata_.data() + knob.offset_bytes, &value, knob.size_bytes);
}

std::map<std::string, std::string> Knobs::values() const {
  std::map<std::string, std::string> out;
  for (const Knob& knob : knobs_) {
    const uint64_t bits = load(knob);
    if (knob.kind == Knob::Kind::boolean) {
      out[knob.name] = bits ? "true" : "false";
    } else if (knob.is_signed) {
      const unsigned shift = 64 - knob.size_bytes * 8;
      out[knob.name] = fmt("{}", static_cast<int64_t>(bits << shift) >> shift);
    } else {
      out[knob.name] = fmt("{}", bits);
    }
  }
  return out;
}

std::string knob_type(const Knob& knob) {
  switch (knob.kind) {
    case Knob::Kind::boolean:
      return "bool";
    case Knob::Kind::enumeration:
      return "enum";
    case Knob::Kind::integer:
      break;
  }
  return fmt("{}{}", knob.is_signed ? 's' : 'u', knob.size_bytes * 8);
}

}  // namespace ublk
