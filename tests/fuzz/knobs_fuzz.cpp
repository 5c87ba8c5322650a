// SPDX-License-Identifier: MIT
//
// Knobs: an object's types and its .rodata, then name=value of --set. Input:
// bytes of BTF and of .rodata, as two little-endian u32, both of these, and the
// text.

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "fuzz.h"
#include "prog/knobs.h"

namespace {

int silent(libbpf_print_level, const char*, va_list) { return 0; }

// Takes up to `size` bytes off the input.
std::string_view take(std::string_view& input, size_t size) {
  const auto part = input.substr(0, size);
  input.remove_prefix(part.size());
  return part;
}

uint32_t take_size(std::string_view& input) {
  uint32_t size = 0;
  const auto part = take(input, sizeof(size));
  std::copy(part.begin(), part.end(), reinterpret_cast<char*>(&size));
  return size;
}

void try_all(const btf* types, std::string_view rodata, std::string_view text) {
  std::vector<std::byte> bytes(rodata.size());
  std::transform(rodata.begin(), rodata.end(), bytes.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  auto knobs = ublk::Knobs::find(types, bytes);
  const auto equals = text.find('=');
  const std::string_view value =
      equals == std::string_view::npos ? "" : text.substr(equals + 1);
  const auto set = knobs.set(text.substr(0, equals), value);
  must(set || !set.error().line().empty(), "a refusal says why");
  for (const auto& knob : knobs.all()) (void)knobs.set(knob.name, value);
  for (const auto& [name, json] : knobs.values())
    must(nlohmann::json::accept(json), "a value is JSON");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  libbpf_set_print(silent);
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const uint32_t btf_bytes = take_size(input);
  const uint32_t rodata_bytes = take_size(input);
  const auto blob = take(input, btf_bytes);
  const auto rodata = take(input, rodata_bytes);
  btf* types = btf__new(blob.data(), static_cast<uint32_t>(blob.size()));
  if (!types) return 0;
  try_all(types, rodata, input);
  btf__free(types);
  return 0;
}
