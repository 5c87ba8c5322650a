// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command_line.h"

namespace ublk::cli {

// The whole command line, as defined by the commands: what parses it, helps
// with it and describes it is made of this. Parsing writes to `options`, which
// outlives it.
// With `only`, the command, or group of commands, of that name is enough: to
// define all of them takes longer than most of them do.
std::unique_ptr<CLI::App> make_app(Options& options,
                                   std::string_view only = {});
// Those of all commands, in order.
std::vector<const CLI::App*> command_apps(const CLI::App& root);
// What is written for one: "add", "layer create"; "" for the root.
std::string command_of(const CLI::App& app);
// Of an option, "-u" and "--user-copy": what help shows. Any other long names
// are those of other ublk tools, accepted for the sake of their scripts.
std::vector<std::string> shown_names(const CLI::Option& option);
std::vector<std::string> other_names(const CLI::Option& option);
// As a page is called: "layer-create".
std::string dashed(std::string command);

}  // namespace ublk::cli
