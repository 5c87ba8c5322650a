// SPDX-License-Identifier: MIT
#pragma once

#include <string>

namespace ublk::cli {

class Arguments;
struct Options;

// Of metrics.
struct WatchOptions {
  std::string output;
  bool http = false;
};

// stat without -n, see cmd_stat.cpp.
int run_live_stat(const Options& options);

void define_metrics(Arguments& command, Options& options);
int run_metrics(const Options& options);

}  // namespace ublk::cli
