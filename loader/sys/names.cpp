// SPDX-License-Identifier: MIT
#include "sys/names.h"

#include <cerrno>
#include <charconv>
#include <cstdint>

namespace ublk {

namespace {

uint8_t byte(char c) { return static_cast<uint8_t>(c); }

// The length of the UTF-8 sequence that the text begins with; 0: it does not
// begin with one (RFC 3629: none that is too long, no surrogates).
size_t sequence_length(std::string_view text) {
  const uint8_t first = byte(text[0]);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xc2 && first < 0xe0   ? 2
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xf0 && first < 0xf5 ? 4
                                                        : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; i++)
    if ((byte(text[i]) & 0xc0) != 0x80) return 0;
  const uint8_t second = byte(text[1]);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90))
    return 0;
  return length;
}

// ASCII's, and U+0080 to U+009F, which terminals take for such too.
bool is_control(std::string_view sequence) {
  const uint8_t first = byte(sequence[0]);
  return first < 0x20 || first == 0x7f ||
         (sequence.size() == 2 && first == 0xc2 && byte(sequence[1]) < 0xa0);
}

std::string escaped(std::string_view text, bool backslashes) {
  std::string out;
  while (!text.empty()) {
    const size_t length = sequence_length(text);
    const std::string_view part = text.substr(0, length ? length : 1);
    text.remove_prefix(part.size());
    if (part == "\n") {
      out += "\\n";
    } else if (part == "\t") {
      out += "\\t";
    } else if (backslashes && part == "\\") {
      out += "\\\\";
    } else if (length == 0 || is_control(part)) {
      for (const char c : part) out += fmt("\\x{:02x}", byte(c));
    } else {
      out += part;
    }
  }
  return out;
}

}  // namespace

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = sequence_length(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string one_line(std::string_view text) { return escaped(text, false); }

std::string shown_name(std::string_view name) { return escaped(name, true); }

std::string percent_encoded(std::string_view bytes) {
  std::string out;
  for (const char c : bytes)
    out += byte(c) < 0x20 || byte(c) > 0x7e || c == '%'
               ? fmt("%{:02X}", byte(c))
               : std::string(1, c);
  return out;
}

Result<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    uint8_t value = 0;
    const std::string_view digits = text.substr(i + 1, 2);
    const auto [end, bad] = std::from_chars(
        digits.data(), digits.data() + digits.size(), value, 16);
    if (bad != std::errc() || digits.size() != 2 ||
        end != digits.data() + digits.size())
      return fail(EPROTO, "'%' at {} is not followed by two digits", i);
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

}  // namespace ublk
