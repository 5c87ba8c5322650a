// SPDX-License-Identifier: MIT
#include "sys/process.h"

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ranges>
#include <sstream>
#include <vector>

#include "sys/text_file.h"

namespace ublk {

void close_inherited_fds() {
  // Not there before 5.9, where ublk is not either.
  ::close_range(3, ~0U, 0);
}

Result<void> leave_mounts() {
  if (::unshare(CLONE_NEWNS) != 0)
    return fail_sys(errno, "a mount namespace of its own");
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fail_sys(errno, "making the mounts private");
  const std::string table = TRY(read_text("/proc/self/mountinfo"));
  std::vector<std::string> points;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, dev, root, point;
    words >> id >> parent >> dev >> root >> point;
    if (!point.empty() && point != "/") points.push_back(point);
  }
  // Names with blanks are escaped there and fail here: they go with the
  // mount they are below of, or stay, which is no worse than before.
  for (const auto& point : points | std::views::reverse)
    ::umount2(point.c_str(), MNT_DETACH);
  return {};
}

Result<void> become_io_server() {
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    return fail_sys(errno, "PR_SET_IO_FLUSHER");
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    return fail_sys(errno, "mlockall");
  return {};
}

UniqueFd pidfd_of(pid_t pid) {
  if (pid <= 0) return UniqueFd();
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool wait_gone(const UniqueFd& pidfd, std::chrono::milliseconds time) {
  if (!pidfd.valid()) return true;
  pollfd entry{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, static_cast<int>(time.count())) > 0;
}

}  // namespace ublk
