// SPDX-License-Identifier: MIT
#pragma once

namespace ublk::cli {

class Arguments;
struct Options;

// For who writes programs: new and check.
void define_new(Arguments& command, Options& options);
void define_check(Arguments& command, Options& options);
int run_new(const Options& options);
int run_check(const Options& options);

}  // namespace ublk::cli
