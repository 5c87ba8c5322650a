// SPDX-License-Identifier: MIT
#include "sys/borrow.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>

#include "sys/process.h"

namespace ublk {

namespace {

bool may_be(const struct stat& st, const FileIdentity& file) {
  return S_ISBLK(st.st_mode)
             ? file.is_block && st.st_rdev == file.dev
             : S_ISREG(st.st_mode) && !file.is_block && st.st_dev == file.dev &&
                   st.st_ino == file.ino;
}

bool is(const UniqueFd& fd, const FileIdentity& file, bool writable) {
  const auto found = FileIdentity::of(fd.get());
  if (!found || !found->same_as(file)) return false;
  const int flags = ::fcntl(fd.get(), F_GETFL);
  return flags >= 0 && !(flags & O_PATH) &&
         (!writable || (flags & O_ACCMODE) == O_RDWR);
}

}  // namespace

UniqueFd borrow_file(pid_t pid, const FileIdentity& file, bool writable) {
  const UniqueFd process = pidfd_of(pid);
  if (!process.valid()) return UniqueFd();
  std::error_code ec;
  std::filesystem::directory_iterator it(fmt("/proc/{}/fd", pid), ec), end;
  for (; !ec && it != end; it.increment(ec)) {
    struct stat st{};
    if (::stat(it->path().c_str(), &st) != 0 || !may_be(st, file)) continue;
    const std::string name = it->path().filename().string();
    int number = -1;
    std::from_chars(name.data(), name.data() + name.size(), number);
    UniqueFd fd(
        static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    if (fd.valid() && is(fd, file, writable)) return fd;
  }
  return UniqueFd();
}

}  // namespace ublk
