// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "sys/error.h"

namespace ublk {

// Which files of a mirror are up to date. One that is not is not used again:
// there is no way back in the device's life. Shared by the queues.
class Legs {
 public:
  // Makes it known beyond this process that these have failed, before anybody
  // can see a write that one of them lacks.
  using Note = std::function<Result<void>(uint32_t failed)>;

  Legs(uint32_t count, uint32_t failed) : count_(count), failed_(failed) {}

  // Bit N: leg N.
  uint32_t failed() const { return failed_.load(std::memory_order_acquire); }
  bool in_use(uint32_t leg) const { return !(failed() >> leg & 1); }

  // Before the queues run.
  void on_failure(Note note) { note_ = std::move(note); }
  void learn(uint32_t failed) { failed_ |= failed; }
  // From here on these are not used, when it has been noted. EIO: there would
  // be none left; nothing has changed.
  Result<void> give_up(uint32_t legs);

 private:
  const uint32_t count_;
  std::atomic<uint32_t> failed_;
  std::mutex mutex_;
  Note note_;
};

}  // namespace ublk
