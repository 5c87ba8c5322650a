// SPDX-License-Identifier: MIT
#include "sys/unique_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace ublk {

Result<UniqueFd> UniqueFd::open(const std::string& path, int flags,
                                unsigned mode) {
  return open_at(AT_FDCWD, path, flags, mode);
}

Result<UniqueFd> UniqueFd::open_at(int dir_fd, const std::string& path,
                                   int flags, unsigned mode) {
  int fd;
  do {
    fd = ::openat(dir_fd, path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_sys(errno, "{}: open", path);
  return UniqueFd(fd);
}

void UniqueFd::reset() {
  // close() may only fail after the descriptor is gone: nothing to retry.
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

}  // namespace ublk
