// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sys/error.h"

namespace ublk {

// An SQE that a program may queue. What is not a constant, whatever way the
// program takes there, is left open.
struct QueuedSqe {
  std::optional<uint8_t> opcode{};
  // Which of the files given at attach.
  std::optional<int32_t> file{};
  auto operator<=>(const QueuedSqe&) const = default;
};

// All that a program of this object may queue, its completion half included, by
// its instructions alone: nothing is loaded. It may queue less, never more:
// knobs, maps and requests can have any value. ENOENT: it has no such program.
// ENOEXEC: its code cannot be followed.
Result<std::set<QueuedSqe>> scan_queued(const std::string& path,
                                        const std::string& program);

// "READ"; "opcode 42" of one that has no SQE's.
std::string opcode_name(uint8_t opcode);
// "READ, WRITE on files 0, 1; FSYNC on file 0", "nothing", or "computed
// opcodes", "computed files" where they are open.
std::string queued_text(const std::set<QueuedSqe>& queued);

}  // namespace ublk
