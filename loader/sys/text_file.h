// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sys/error.h"

namespace ublk {

// A whole small file, as /proc and /sys have them.
Result<std::string> read_text(const std::string& path);
Result<std::string> read_text_at(int dir_fd, const std::string& name);
// The decimal number that the file starts with.
std::optional<uint64_t> read_number(const std::string& path);

// Replaces `name` in the directory: a reader sees the old or the new text,
// never a part of it.
Result<void> replace_text_at(int dir_fd, const std::string& name,
                             std::string_view text);

// Names in an open directory, also of one that no path leads to any more.
std::vector<std::string> names_at(int dir_fd);

}  // namespace ublk
