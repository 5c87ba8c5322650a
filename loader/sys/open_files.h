// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

namespace ublk {

enum class NodeKind { character, block };

// Device numbers of the nodes of this kind that a process has open, whatever
// they are called. Empty where there is no such process, or no right to know.
// Never waits for a file system: what is not below /dev, and has no name of
// ublk's, is not looked at.
std::set<dev_t> open_nodes(pid_t pid, NodeKind kind,
                           const std::string& proc = "/proc");
// Also of a process whose first thread has ended and others have not: one that
// was killed, and has I/O that does not end.
std::set<dev_t> open_nodes_of_threads(pid_t pid, NodeKind kind,
                                      const std::string& proc = "/proc");

// All processes that can be seen.
std::vector<pid_t> all_processes(const std::string& proc = "/proc");
// "fsck (4711)"
std::string process_name(pid_t pid, const std::string& proc = "/proc");

}  // namespace ublk
