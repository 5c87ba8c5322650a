// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "sys/error.h"

namespace ublk {

// A file's name is any bytes but NUL, also those of a newline, of what moves a
// terminal's cursor, and of what is not UTF-8. Here is how they are shown and
// kept.

bool is_utf8(std::string_view bytes);

// For a line of text: control characters as \n, \t or \x1b, and bytes that are
// not UTF-8 as \xff.
std::string one_line(std::string_view text);
// A name within a line: the same, and a backslash as \\, so that it can be told
// which bytes it has.
std::string shown_name(std::string_view name);

// For JSON, whose strings are UTF-8: each byte that is not printable ASCII, and
// '%', as %XX. And back; EPROTO: is not such a text.
std::string percent_encoded(std::string_view bytes);
Result<std::string> percent_decoded(std::string_view text);

}  // namespace ublk
