// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <utility>

#include "sys/error.h"

namespace ublk {

// Owns a mapping. Destruction unmaps it: for the io descriptors of a queue
// that drops a reference to /dev/ublkcN, which must be gone before DEL_DEV
// returns; the device goes on.
class MmapRegion {
 public:
  MmapRegion() = default;
  MmapRegion(MmapRegion&& other) noexcept
      : addr_(std::exchange(other.addr_, nullptr)),
        len_(std::exchange(other.len_, 0)) {}
  MmapRegion& operator=(MmapRegion&& other) noexcept {
    if (this != &other) {
      reset();
      addr_ = std::exchange(other.addr_, nullptr);
      len_ = std::exchange(other.len_, 0);
    }
    return *this;
  }
  ~MmapRegion() { reset(); }

  // A shared, read-only mapping of `len_bytes` of a file.
  static Result<MmapRegion> map_file(int fd, off_t off_bytes, size_t len_bytes);
  // A shared mapping of the first `len_bytes` of a file, to be written too.
  static Result<MmapRegion> shared(int fd, size_t len_bytes);
  // Private zeroed memory, page aligned, without a reservation of swap.
  static Result<MmapRegion> anonymous(size_t len_bytes);

  std::byte* data() const { return static_cast<std::byte*>(addr_); }
  size_t size_bytes() const { return len_; }
  void reset();

 private:
  MmapRegion(void* addr, size_t len) : addr_(addr), len_(len) {}

  void* addr_ = nullptr;
  size_t len_ = 0;
};

}  // namespace ublk
