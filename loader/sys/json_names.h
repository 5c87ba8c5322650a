// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "sys/names.h"

namespace ublk {

// JSON's strings are UTF-8, names are any bytes: those that are not are there
// twice, as `key` for who reads it and as `key`_bytes for who opens the file.
// `Json` is one of nlohmann's types.
template <typename Json>
void put_name(Json& out, const std::string& key, const std::string& name) {
  out[key] = name;
  if (!is_utf8(name)) out[key + "_bytes"] = percent_encoded(name);
}

template <typename Json>
void put_names(Json& out, const std::string& key,
               const std::vector<std::string>& names) {
  out[key] = names;
  if (std::ranges::all_of(names, is_utf8)) return;
  Json& encoded = out[key + "_bytes"] = Json::array();
  for (const std::string& name : names)
    encoded.push_back(percent_encoded(name));
}

}  // namespace ublk
