// SPDX-License-Identifier: MIT
#include "sys/process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "sys/text_file.h"

namespace ublk {

namespace {

// The value of a line "name:\tvalue" of /proc/PID/status.
uint64_t status_value(const std::string& status, std::string_view name) {
  const auto at = status.find(fmt("\n{}:", name));
  if (at == std::string::npos) return 0;
  const auto digits = status.find_first_of("0123456789", at);
  uint64_t value = 0;
  if (digits != std::string::npos)
    std::from_chars(status.data() + digits, status.data() + status.size(),
                    value);
  return value;
}

}  // namespace

void keep_standard_fds() {
  for (const int fd : {0, 1, 2}) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    // The lowest number that is free is this one. The root is there in any
    // case, and takes no writes.
    if (::open("/dev/null", O_RDWR) < 0) ::open("/", O_RDONLY | O_DIRECTORY);
  }
}

void close_inherited_fds() {
  // Not there before 5.9, where ublk is not either.
  ::close_range(3, ~0U, 0);
}

Result<void> stay_clear_of_reclaim() {
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    return fail_sys(errno, "PR_SET_IO_FLUSHER");
  return {};
}

Result<void> lock_memory() {
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    return fail_sys(errno, "mlockall");
  return {};
}

void outlive_shutdown() { ::program_invocation_name[0] = '@'; }

bool is_admin() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3,
                                  .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  return ::syscall(SYS_capget, &header, sets) == 0 &&
         (sets[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &
          CAP_TO_MASK(CAP_SYS_ADMIN));
}

void allow_many_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  // The kernel's, where nobody has said anything; and systemd's.
  constexpr rlim_t kUnsaid = 4096, kUsual = 524288;
  const rlimit usual{.rlim_cur = kUsual, .rlim_max = kUsual};
  if (limit.rlim_max == kUnsaid && ::setrlimit(RLIMIT_NOFILE, &usual) == 0)
    return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

std::vector<ThreadInfo> threads_of(pid_t pid) {
  std::vector<ThreadInfo> threads;
  std::error_code ec;
  for (std::filesystem::directory_iterator it(fmt("/proc/{}/task", pid), ec),
       end;
       !ec && it != end; it.increment(ec)) {
    const auto status = read_text(it->path().string() + "/status");
    // Ended, but its parent has not taken notice yet.
    if (!status || status->contains("\nState:\tZ")) continue;
    ThreadInfo thread;
    const std::string tid = it->path().filename().string();
    std::from_chars(tid.data(), tid.data() + tid.size(), thread.tid);
    constexpr std::string_view kName = "Name:\t";
    if (status->starts_with(kName))
      thread.name =
          status->substr(kName.size(), status->find('\n') - kName.size());
    thread.sleeps = status_value(*status, "voluntary_ctxt_switches");
    threads.push_back(std::move(thread));
  }
  return threads;
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

std::string own_path() {
  if (const char* told = std::getenv("UBLK_BPF_SELF")) return told;
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).string();
}

}  // namespace ublk
