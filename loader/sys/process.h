// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// Opens /dev/null as each of descriptors 0 to 2 that is closed, so that nothing
// else gets their numbers, and with them what is written there. Call it before
// anything is opened.
void keep_standard_fds();

// Closes every descriptor from 3 on, so that a daemon does not keep its
// starter's pipes, terminals and files alive.
void close_inherited_fds();

// The thread's allocations do not wait for I/O that only this thread can
// serve. Threads created later inherit it. Needs CAP_SYS_RESOURCE.
Result<void> stay_clear_of_reclaim();

// The process's memory, once touched, is not swapped out. Needs CAP_IPC_LOCK.
Result<void> lock_memory();

// systemd's last step of a shutdown, which ends all processes before it
// unmounts what is left, leaves this one be: what is left may be on a disk that
// it serves. Shows as a '@' in front of its command line. Counts for root only.
// Source: systemd.io/ROOT_STORAGE_DAEMONS.
void outlive_shutdown();

// Whether the thread has CAP_SYS_ADMIN, where the kernel asks for it.
bool is_admin();

// As many open files as the administrator allows, not the fewer that select(2)
// can take; where he has allowed nothing in particular, as many as systemd
// does. Nothing happens if it cannot be.
void allow_many_files();

// A thread of a process, as /proc has it.
struct ThreadInfo {
  pid_t tid = 0;
  std::string name;
  uint64_t sleeps = 0;  // voluntary context switches
};
// Those that have not ended. Empty where there is no such process, or no /proc.
std::vector<ThreadInfo> threads_of(pid_t pid);

// A handle of the process, invalid if there is none.
UniqueFd pidfd_of(pid_t pid);
// True if the process has gone before the time is over.
bool wait_gone(const UniqueFd& pidfd, std::chrono::milliseconds time);

// Where this program's file is, absolute; "": it cannot be known. One that was
// started by way of another (scripts/portable) is told who it is, in
// UBLK_BPF_SELF.
std::string own_path();

}  // namespace ublk
