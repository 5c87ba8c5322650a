// SPDX-License-Identifier: MIT
//
// Run by the build, not installed: writes the manual pages and the shell
// completion into man/ and completion/ of a directory.

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "cli/reference.h"

namespace {

bool write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) std::fprintf(stderr, "%s: cannot be written\n", path.c_str());
  return !out.fail();
}

bool write_all(const std::filesystem::path& dir) {
  bool done = true;
  // Pages of commands that are no more.
  std::filesystem::remove_all(dir / "man");
  for (const auto& [name, text] : ublk::cli::man_pages())
    done &= write(dir / "man" / "man8" / name, text);
  done &= write(dir / "completion" / "ublk-bpf", ublk::cli::bash_completion());
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "use: ublk-bpf-reference DIR\n");
    return 2;
  }
  try {
    return write_all(argv[1]) ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ublk-bpf-reference: %s\n", e.what());
    return 1;
  }
}
