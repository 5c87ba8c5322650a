// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <latch>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "server/queue.h"
#include "server/target.h"
#include "sys/unique_fd.h"

namespace ublk {

// The threads that serve a device's queues, and what they use. Destruction
// joins them, so the device has to be stopped before, and then closes
// /dev/ublkcN: that lets DEL_DEV finish.
class Server {
 public:
  // `info` is what the driver has made of the device, `queues` have the CPUs
  // of each queue. Starts no thread yet.
  static Result<std::unique_ptr<Server>> create(
      Target target, UniqueFd char_fd, const ublksrv_ctrl_dev_info& info,
      const std::vector<cpu_set_t>& queues);
  ~Server();

  // Starts the threads and waits until each has fetched its tags. After an
  // error the others still wait for requests: stop the device.
  Result<void> start();
  // Readable once a thread has ended.
  int ended_fd() const { return ended_.get(); }
  // Whether a thread has ended with an error, of those that have ended.
  bool failed() const { return failed_; }
  bool all_ended() const { return nr_ended_ == threads_.size(); }
  // Waits until all threads have ended. The first error of any of them.
  Result<void> join();

  const Target& target() const { return target_; }

 private:
  struct Thread {
    std::thread thread;
    std::optional<Error> setup_error;  // written before `fetched_`
    std::optional<Error> run_error;    // read after the join
  };

  Server(Target target, UniqueFd char_fd, UniqueFd ended)
      : target_(std::move(target)),
        char_fd_(std::move(char_fd)),
        ended_(std::move(ended)) {}

  void serve(size_t index);

  Target target_;
  UniqueFd char_fd_;
  UniqueFd ended_;
  std::atomic<bool> failed_ = false;
  std::atomic<size_t> nr_ended_ = 0;
  std::vector<QueueConfig> configs_;
  std::vector<Thread> threads_;
  // Not in start(): a thread may still be within count_down() when it returns.
  std::optional<std::latch> fetched_;
};

}  // namespace ublk
