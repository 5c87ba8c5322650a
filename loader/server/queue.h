// SPDX-License-Identifier: MIT
#pragma once

#include <sched.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "server/target.h"
#include "sys/mmap_region.h"
#include "sys/ring.h"

namespace ublk {

// Threads that serve a queue have names that begin so.
inline constexpr std::string_view kQueueThreadPrefix = "ublk-q";

// What a queue is made of. The descriptors and the target are borrowed: they
// outlive the queue.
struct QueueConfig {
  uint16_t q_id;
  uint16_t depth;
  uint32_t max_io_bytes;
  int char_fd;  // /dev/ublkcN
  const Target* target;
  cpu_set_t cpus;
};

// One hardware queue on the copy path: the driver copies a WRITE's data into
// the tag's buffer before the request is delivered, and a READ's out of it
// when the result is committed. One ring, one thread, one system call per
// batch; the thread sleeps in the kernel whenever there is nothing to do.
//
// Everything happens on the thread that created it. Destruction drops the
// ring and the mapping, after which the driver takes the queue for dead.
class Queue {
 public:
  // Fetches every tag; an error if the driver refuses.
  static Result<Queue> create(const QueueConfig& config);
  // Serves until the driver has given every tag back, as it does when the
  // device is stopped.
  Result<void> run();

 private:
  Queue(const QueueConfig& config, Ring ring)
      : config_(config), ring_(std::move(ring)), ios_(config.depth) {}

  Result<void> map();
  Result<void> fetch_all();
  void handle(uint64_t user_data, int res);
  void prepare_command(io_uring_sqe* sqe, uint32_t op, uint16_t tag,
                       int result);

  QueueConfig config_;
  Ring ring_;
  MmapRegion descs_;
  MmapRegion buffers_;
  std::vector<Io> ios_;
  unsigned live_tags_ = 0;
};

}  // namespace ublk
