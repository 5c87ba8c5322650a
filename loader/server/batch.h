// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "server/target.h"
#include "sys/error.h"
#include "sys/ublk_cmd.h"

namespace ublk {

// Delivery in batches (UBLK_F_BATCH_IO), whatever the data path: one command
// that stays brings the tags of many requests at a time, and one commits the
// results of a round. Borrows the ring, on whose thread all of it happens;
// destruction takes its buffers back from the ring, which has to be there yet.
class Batch {
 public:
  struct Config {
    uint16_t q_id;
    uint16_t depth;
    uint64_t dev_flags;  // UBLK_F_*: they decide what an element has
  };
  static Result<std::unique_ptr<Batch>> create(io_uring* ring,
                                               const Config& config);
  ~Batch();
  Batch(const Batch&) = delete;

  // Hands over every tag, and asks for requests. Waits for the first: an error
  // if the driver refuses.
  Result<void> start(std::span<const Io> ios);
  // The fetch command has completed, once more or for good. The tags that it
  // brought; valid until give_back().
  Result<std::span<const uint16_t>> fetched(const io_uring_cqe& cqe);
  void give_back(const io_uring_cqe& cqe);
  // False after the driver has ended it, as it does when the device stops.
  bool fetching() const { return fetching_; }

  // Notes the result of a tag's request.
  void commit(const Io& io, int result);
  // At the end of a round: sends what was noted, unless the kernel has not even
  // taken what was sent before, `taken`.
  void flush(bool taken);
  // Something is noted that was not sent.
  bool pending() const { return !filling_.empty(); }

 private:
  Batch(io_uring* ring, const Config& config);
  unsigned char* buffer(unsigned index);
  void put(const Io& io, int result);
  void prepare(io_uring_sqe* sqe, uint32_t op, unsigned nr_elem);
  void fetch();

  io_uring* ring_;
  Config config_;
  uint16_t flags_ = 0;  // UBLK_BATCH_F_*
  uint8_t elem_bytes_;
  bool fetching_ = false;
  // Elements: one buffer is filled while the kernel may still read the other.
  std::vector<std::byte> filling_, sent_;
  // Where the kernel puts the tags.
  io_uring_buf_ring* buf_ring_ = nullptr;
  unsigned nr_bufs_;
  unsigned buf_bytes_;
  std::vector<uint16_t> tags_;
};

}  // namespace ublk
