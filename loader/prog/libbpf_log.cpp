// SPDX-License-Identifier: MIT
#include "prog/libbpf_log.h"

#include <bpf/libbpf.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <sstream>
#include <string_view>

namespace ublk {

namespace {

std::vector<std::string>* g_lines = nullptr;

int keep(libbpf_print_level level, const char* format, va_list args) {
  if (!g_lines || level != LIBBPF_WARN) return 0;
  std::array<char, 1024> text;
  const int len = std::vsnprintf(text.data(), text.size(), format, args);
  std::istringstream in{std::string(text.data())};
  for (std::string line; std::getline(in, line);) {
    constexpr std::string_view prefix = "libbpf: ";
    if (line.starts_with(prefix)) line.erase(0, prefix.size());
    if (!line.empty()) g_lines->push_back(std::move(line));
  }
  return len;
}

}  // namespace

LibbpfLog::LibbpfLog() {
  g_lines = &lines_;
  libbpf_set_print(keep);
}

LibbpfLog::~LibbpfLog() {
  // Left in place: nothing of this program prints by libbpf.
  g_lines = nullptr;
}

}  // namespace ublk
