// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace ublk::cli {

// What commands print: names in the order in which they were added.
using json = nlohmann::ordered_json;

// On one line. A path may have bytes that are not UTF-8; each is shown as
// U+FFFD.
inline std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace ublk::cli
