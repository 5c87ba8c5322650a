// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>

namespace ublk::cli {

inline constexpr int kManSection = 8;

// Manual pages by file name: ublk-bpf.8, and one per command as in
// ublk-bpf-add.8. All that is in them is what --help has.
std::map<std::string, std::string> man_pages();
// For bash, to be sourced, or put where bash-completion looks for "ublk-bpf".
std::string bash_completion();

}  // namespace ublk::cli
