// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <thread>

#include "server/clone.h"
#include "sys/error.h"

namespace ublk {

// Brings what is below a clone's top layer up to it, in a thread of its own
// while the queues and the program serve, until the layer needs nothing below
// it any more; then it says so in its header. What reads as zeroes is not
// brought: that is what a block that is not there reads as, without a base.
//
// A piece is brought as the first write of whole blocks is: its blocks are
// busy, the program has been drained, none of them is present.
class Flatten {
 public:
  struct Options {
    uint64_t bytes_per_second = 0;  // that are copied, at most; 0: no limit
    // Called by the thread: about once per second, and at its end.
    std::function<void(const FlattenProgress&)> tell{};
  };
  // The clone outlives it. Destruction ends the thread, after the piece that it
  // has in hand; what was brought stays.
  static Result<std::unique_ptr<Flatten>> start(Clone& clone, Options options);
  Flatten(const Flatten&) = delete;
  ~Flatten();

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  Flatten(Clone& clone, Options options);

  void run(const std::stop_token& stop);
  Result<void> bring_all(const std::stop_token& stop);
  Result<uint64_t> bring(const std::stop_token& stop, uint64_t from);
  Result<bool> hold(BusyBlocks::Hold& hold, const Clone::Run& run);
  Result<void> read_below(uint64_t at, uint64_t bytes);
  Result<void> write_what_is_not_zeroes(const Clone::Run& run, uint64_t at);
  Result<void> save();
  void tell(const std::stop_token& stop, bool now);

  Clone& clone_;
  Options options_;
  std::unique_ptr<std::byte, Free> memory_;
  FlattenProgress progress_;
  std::chrono::steady_clock::time_point begun_{};
  std::chrono::steady_clock::time_point told_{};
  std::jthread thread_;  // the last: uses the others
};

}  // namespace ublk
