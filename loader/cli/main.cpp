// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <string_view>

#include "cli/command_line.h"
#include "cli/output.h"
#include "device/find.h"
#include "sys/process.h"

namespace {

bool wants_json(int argc, char** argv) {
  return std::any_of(argv, argv + argc, [](const char* arg) {
    return std::string_view(arg) == "--json";
  });
}

// What a device was called by becomes its number.
ublk::Result<void> look_for_device(ublk::cli::Options& options) {
  if (options.device.empty()) return {};
  options.dev_id =
      TRY(ublk::find_device(ublk::StateStore::open_existing(), options.device));
  return {};
}

int run(int argc, char** argv) {
  using namespace ublk::cli;
  Parsed parsed = parse(argc, argv);
  if (!parsed.text.empty() && parsed.status == kDone) {
    std::fputs(parsed.text.c_str(), stdout);
    return kDone;
  }
  if (!parsed.text.empty())
    return report(ublk::Error::plain(EINVAL, parsed.text)
                      .hint("ublk-bpf --help, ublk-bpf COMMAND --help"),
                  wants_json(argc, argv), kUsedWrongly);
  if (const auto found = look_for_device(parsed.options); !found)
    return report(found.error(), parsed.options.json);
  for (const Command& command : commands())
    if (parsed.options.command == command.name)
      return command.run(parsed.options);
  return kUsedWrongly;
}

}  // namespace

int main(int argc, char** argv) {
  ublk::keep_standard_fds();
  int status = ublk::cli::kFailed;
  try {
    status = run(argc, argv);
  } catch (const std::exception& e) {
    // Only what no caller can do anything about, such as no memory.
    std::fprintf(stderr, "ublk-bpf: %s\n", e.what());
  }
  // A report that nobody could read was none.
  if (std::fflush(stdout) != 0 && status == ublk::cli::kDone) {
    std::perror("ublk-bpf: standard output");
    status = ublk::cli::kFailed;
  }
  return status;
}
