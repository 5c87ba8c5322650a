// SPDX-License-Identifier: MIT
#pragma once

#include <sched.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/batch.h"
#include "server/data_path.h"
#include "server/target.h"
#include "sys/mmap_region.h"
#include "sys/ring.h"

namespace ublk {

// "ublk3q0": the thread that serves a queue, as /proc/PID/task/TID/comm has it.
std::string queue_thread_name(uint32_t dev_id, uint16_t q_id);
// And back. Nothing: it serves no queue.
std::optional<uint32_t> device_of_thread(std::string_view name);

// What a queue is made of. The descriptor, the target and the data path are
// borrowed: they outlive the queue.
struct QueueConfig {
  uint32_t dev_id;
  uint16_t q_id;
  uint16_t depth;
  uint32_t max_io_bytes;
  int char_fd;  // /dev/ublkcN
  const Target* target;
  const DataPath* path;
  uint64_t dev_flags;  // UBLK_F_*
  cpu_set_t cpus;
};

// One hardware queue, served by a target on a data path. One ring, one thread,
// one system call per batch; the thread sleeps in the kernel whenever there is
// nothing to do.
//
// Everything happens on the thread that created it. Destruction drops the
// ring and the mapping, after which the driver takes the queue for dead.
class Queue {
 public:
  // Fetches every tag; an error if the driver refuses.
  static Result<Queue> create(const QueueConfig& config);
  // Serves until the driver has given every tag back, as it does when the
  // device is stopped. When it is quiesced, tags that are in use just then do
  // not come back: the queue ends once their requests are done.
  Result<void> run();

 private:
  Queue(const QueueConfig& config, Ring ring)
      : config_(config), ios_(config.depth), ring_(std::move(ring)) {}

  Result<void> map();
  Result<void> fetch_all();
  Result<void> handle(const io_uring_cqe& cqe);
  Result<void> fetched(const io_uring_cqe& cqe);
  bool live() const;
  void deliver(Io& io, int res);
  void go_on(Io& io, int res);
  void issue(Io& io, io_uring_sqe* sqe);
  void commit(Io& io, int result, io_uring_sqe* sqe);
  // For the target, or for the command if that has the result at once. There
  // is one: the ring has room for what each tag may need at a time. In batches
  // there is no such command, so it is a draft.
  io_uring_sqe* next_sqe() {
    if (!batch_) return io_uring_get_sqe(ring_.get());
    draft_ = {};
    return &draft_;
  }
  PathQueue path_queue() const {
    return {ring_.get(), config_.char_fd, config_.q_id};
  }

  QueueConfig config_;
  std::vector<Io> ios_;  // outlive the ring, which may use what they hold
  Ring ring_;
  MmapRegion descs_;
  MmapRegion buffers_;
  // Tags that are not given back; in batches, those that have a request.
  unsigned live_tags_ = 0;
  bool ending_ = false;           // a tag has been given back
  std::unique_ptr<Batch> batch_;  // after the ring, which it needs to the end
  io_uring_sqe draft_{};
};

}  // namespace ublk
