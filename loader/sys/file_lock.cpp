// SPDX-License-Identifier: MIT
#include "sys/file_lock.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <charconv>
#include <sstream>

#include "sys/error.h"
#include "sys/open_files.h"
#include "sys/text_file.h"

namespace ublk {

std::string lock_holder(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return {};
  const std::string file =
      fmt("{:02x}:{:02x}:{}", major(st.st_dev), minor(st.st_dev), st.st_ino);
  std::istringstream locks(read_text("/proc/locks").value_or(""));
  for (std::string line; std::getline(locks, line);) {
    std::istringstream words(line);
    std::string number, kind, mode, access, pid, where;
    words >> number >> kind >> mode >> access >> pid >> where;
    int id = 0;
    std::from_chars(pid.data(), pid.data() + pid.size(), id);
    if (kind == "FLOCK" && where == file && id > 0)
      return id == ::getpid() ? "this process" : process_name(id);
  }
  return {};
}

}  // namespace ublk
