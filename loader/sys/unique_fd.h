// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <utility>

#include "sys/error.h"

namespace ublk {

// Owns a file descriptor. Destruction closes it: for /dev/ublkcN that tells
// the driver that the server is gone, once no ring and no mapping uses the
// file either; for every other file it does nothing to a device.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  // open(2) with O_CLOEXEC, relative to `dir_fd` (AT_FDCWD: as open() does).
  static Result<UniqueFd> open(const std::string& path, int flags,
                               unsigned mode = 0);
  static Result<UniqueFd> open_at(int dir_fd, const std::string& path,
                                  int flags, unsigned mode = 0);

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

}  // namespace ublk
