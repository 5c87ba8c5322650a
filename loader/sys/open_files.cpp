// SPDX-License-Identifier: MIT
#include "sys/open_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <filesystem>

#include "sys/error.h"
#include "sys/text_file.h"

namespace ublk {

namespace fs = std::filesystem;

namespace {

// A server that has left the mounts has opened its node in a /dev that is
// nowhere any more: there is only the name of the node left.
bool may_be_a_node(const std::string& target) {
  return target.starts_with("/dev/") || target.contains("ublk");
}

std::set<dev_t> nodes_in(const std::string& dir, NodeKind kind) {
  const mode_t type = kind == NodeKind::block ? S_IFBLK : S_IFCHR;
  std::set<dev_t> found;
  std::error_code end;
  fs::directory_iterator it(dir, end);
  for (; !end && it != fs::directory_iterator(); it.increment(end)) {
    std::error_code gone;
    const fs::path target = fs::read_symlink(it->path(), gone);
    if (gone || !may_be_a_node(target.string())) continue;
    struct statx st;
    if (::statx(AT_FDCWD, it->path().c_str(),
                AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) == 0 &&
        (st.stx_mode & S_IFMT) == type)
      found.insert(::makedev(st.stx_rdev_major, st.stx_rdev_minor));
  }
  return found;
}

}  // namespace

std::set<dev_t> open_nodes(pid_t pid, NodeKind kind, const std::string& proc) {
  return nodes_in(fmt("{}/{}/fd", proc, pid), kind);
}

std::set<dev_t> open_nodes_of_threads(pid_t pid, NodeKind kind,
                                      const std::string& proc) {
  std::set<dev_t> found;
  const std::string tasks = fmt("{}/{}/task", proc, pid);
  for (const pid_t tid : all_processes(tasks))
    found.merge(nodes_in(fmt("{}/{}/fd", tasks, tid), kind));
  return found;
}

std::vector<pid_t> all_processes(const std::string& proc) {
  std::vector<pid_t> pids;
  std::error_code end;
  fs::directory_iterator it(proc, end);
  for (; !end && it != fs::directory_iterator(); it.increment(end)) {
    const std::string name = it->path().filename().string();
    pid_t pid = 0;
    const auto [last, bad] =
        std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad == std::errc() && last == name.data() + name.size())
      pids.push_back(pid);
  }
  return pids;
}

std::string process_name(pid_t pid, const std::string& proc) {
  std::string name = read_text(fmt("{}/{}/comm", proc, pid)).value_or("?");
  while (name.ends_with('\n')) name.pop_back();
  return fmt("{} ({})", name, pid);
}

}  // namespace ublk
