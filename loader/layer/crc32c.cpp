// SPDX-License-Identifier: MIT
#include "layer/crc32c.h"

#include <array>
#include <cstring>

namespace ublk {

namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

#ifdef __x86_64__
__attribute__((target("sse4.2"))) uint32_t
by_instruction(std::span<const std::byte> bytes, uint32_t so_far) {
  uint64_t crc = ~so_far;
  for (; bytes.size() >= sizeof(uint64_t);
       bytes = bytes.subspan(sizeof(uint64_t))) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    crc = __builtin_ia32_crc32di(crc, word);
  }
  auto rest = static_cast<uint32_t>(crc);
  for (const std::byte byte : bytes)
    rest = __builtin_ia32_crc32qi(rest, static_cast<uint8_t>(byte));
  return ~rest;
}
#endif

}  // namespace

uint32_t crc32c_by_table(std::span<const std::byte> bytes, uint32_t so_far) {
  uint32_t crc = ~so_far;
  for (const std::byte byte : bytes)
    crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint32_t>(byte)) & 0xff];
  return ~crc;
}

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t so_far) {
#ifdef __x86_64__
  static const bool has_it = __builtin_cpu_supports("sse4.2");
  if (has_it) return by_instruction(bytes, so_far);
#endif
  return crc32c_by_table(bytes, so_far);
}

}  // namespace ublk
