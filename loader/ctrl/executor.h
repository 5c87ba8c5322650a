// SPDX-License-Identifier: MIT
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "sys/error.h"
#include "sys/ublk_cmd.h"
#include "sys/unique_fd.h"

struct io_uring;

namespace ublk {

// Runs a command in this process, on a ring of Ring::for_control(), until the
// kernel answers: 0, or a negative errno. It may take for ever.
int execute_control(io_uring* ring, int control_fd, uint32_t op,
                    const ublksrv_ctrl_cmd& command);

// What an executor has open of what its maker has open.
enum class ExecutorFiles {
  control,  // only /dev/ublk-control, and the descriptor that is to be kept
  all,      // for a command that names descriptors
};

// A process that does control commands for this one, one after the other.
//
// The kernel does them in a worker of the process that asks, and that process
// cannot end, not even by SIGKILL, before the command has. So whoever wants to
// wait for some time only needs another process to do the asking, and to leave
// that behind. It has no file of the server's open either, whose end some
// commands wait for.
//
// Destruction ends the process, or leaves it behind if its command cannot be
// interrupted; it ends by itself then.
class Executor {
 public:
  // For the argument of a command, and a path before it.
  static constexpr size_t kMemoryBytes = 128 << 10;

  // `keep` is a descriptor that the process has open as long as it lives; -1
  // is none.
  static Result<Executor> start(int control_fd, ExecutorFiles files, int keep);
  Executor(Executor&&) = default;
  Executor& operator=(Executor&&) = delete;
  ~Executor();

  // Memory that both processes have. It belongs to the command while one is
  // under way.
  char* memory() { return shared_->memory; }
  void begin(uint32_t op, const ublksrv_ctrl_cmd& command);
  // What the kernel has answered, a negative errno if it refuses; nothing if
  // the time is over.
  std::optional<int> wait(std::chrono::milliseconds time);
  // The kernel's function in which the command is waiting, if it can be known.
  std::string waits_in() const;

 private:
  struct Shared {
    uint32_t op;
    int result;
    ublksrv_ctrl_cmd command;
    alignas(8) char memory[kMemoryBytes];
  };
  struct Unmap {
    void operator()(Shared* shared) const;
  };

  Executor(std::unique_ptr<Shared, Unmap> shared, UniqueFd channel, pid_t pid,
           UniqueFd pidfd)
      : shared_(std::move(shared)),
        channel_(std::move(channel)),
        pid_(pid),
        pidfd_(std::move(pidfd)) {}

  [[noreturn]] static void run(Shared& shared, int channel, int control_fd);

  std::unique_ptr<Shared, Unmap> shared_;
  UniqueFd channel_;
  pid_t pid_;
  UniqueFd pidfd_;
};

}  // namespace ublk
