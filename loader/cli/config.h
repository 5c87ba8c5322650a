// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command_line.h"
#include "device/bpf.h"
#include "device/serve.h"
#include "sys/error.h"

namespace ublk::cli {

// What a file NAME.json in the directory of configurations says:
// docs/config.md.
struct Config {
  std::string name;
  AddRequest add;
  // Without the device's number.
  std::optional<AttachRequest> attach;
};

// Its keys are the long options of `add`, and in "program" those of `attach`,
// and go through the same checks. EINVAL: is not such a text; says which key,
// and if it is not one, which is the nearest.
Result<Config> config_from_json(const std::string& name, std::string_view text);

std::string config_path(const std::string& dir, const std::string& name);
// ENOENT: there is none of this name.
Result<Config> read_config(const std::string& dir, const std::string& name);
// Names of those that are there, in order. None without the directory.
Result<std::vector<std::string>> config_names(const std::string& dir);

}  // namespace ublk::cli
