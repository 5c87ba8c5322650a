// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace ublk {

// Keeps what libbpf warns of, instead of having it printed, for as long as it
// lives. One at a time: libbpf has one output.
class LibbpfLog {
 public:
  LibbpfLog();
  ~LibbpfLog();
  LibbpfLog(const LibbpfLog&) = delete;

  // Without "libbpf: " and the end of line.
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  std::vector<std::string> lines_;
};

}  // namespace ublk
