// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace ublk::cli {

class Arguments;
struct Options;

// Of up, down and config: devices by the names of their configurations.
struct BootOptions {
  std::vector<std::string> names;
  std::string config_dir = "/etc/ublk-bpf";
  bool takeover = false;
};

void define_up(Arguments& command, Options& options);
void define_down(Arguments& command, Options& options);
void define_config_check(Arguments& command, Options& options);
int run_up(const Options& options);
int run_down(const Options& options);
int run_config_check(const Options& options);

}  // namespace ublk::cli
