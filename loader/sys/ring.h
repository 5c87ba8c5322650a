// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <memory>
#include <span>

#include "sys/error.h"

namespace ublk {

// Owns an io_uring. Destruction cancels what is in flight: on a queue's ring
// that gives the device's requests back to the driver, as a dead server does.
// Must be destroyed by the thread that submits to it.
class Ring {
 public:
  Ring(Ring&&) = default;
  Ring& operator=(Ring&&) = default;
  ~Ring() = default;

  // For control commands: SQEs of 128 bytes, few entries.
  static Result<Ring> for_control();
  // For one queue and one thread: SINGLE_ISSUER | DEFER_TASKRUN, registered
  // ring and files. The files are addressed by their index in `files`.
  static Result<Ring> for_queue(unsigned entries, std::span<const int> files);

  // For IORING_OP_READ_FIXED and such: a table of so many buffers, all empty.
  Result<void> add_buffer_table(unsigned buffers);

  io_uring* get() const { return ring_.get(); }

 private:
  struct Exit {
    void operator()(io_uring* ring) const;
  };
  explicit Ring(std::unique_ptr<io_uring, Exit> ring)
      : ring_(std::move(ring)) {}

  static Result<Ring> create(unsigned entries, unsigned flags);

  std::unique_ptr<io_uring, Exit> ring_;
};

}  // namespace ublk
