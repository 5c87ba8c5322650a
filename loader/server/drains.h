// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "server/clone.h"
#include "sys/error.h"

namespace ublk {

// Waits until what a device's program has planned is done, for requests that
// may not hold up their queue: in a thread of its own, once for all that want
// it meanwhile.
class Drains {
 public:
  // Blocks until all that was planned when it was called is done.
  using Drain = std::function<Result<void>()>;
  explicit Drains(Drain drain);
  Drains(const Drains&) = delete;
  // Those that wait are not waited for: their queues have ended.
  ~Drains();

  // A request's part in a drain that begins after join().
  class Part {
   public:
    // Waits for this before anything else, until it is nothing.
    std::optional<FutexWait> waits_for() const;
    // Valid then: 0, or a negative errno.
    int result() const { return round_->result; }

   private:
    friend Drains;
    std::shared_ptr<SaveRounds::Round> round_;
  };
  Part join();

 private:
  void run(const std::stop_token& stop);

  Drain drain_;
  std::mutex mutex_;
  std::condition_variable_any wanted_;
  std::shared_ptr<SaveRounds::Round> next_;
  std::jthread thread_;  // the last: uses the others
};

}  // namespace ublk
