// SPDX-License-Identifier: MIT
#include "sys/mounts.h"

#include <libmount.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sys/unique_fd.h"

namespace ublk {

namespace {

constexpr const char* kTable = "/proc/self/mountinfo";

struct Unref {
  void operator()(libmnt_table* table) const { mnt_unref_table(table); }
  void operator()(libmnt_iter* iter) const { mnt_free_iter(iter); }
  void operator()(FILE* file) const { ::fclose(file); }
};
template <typename T>
using Owned = std::unique_ptr<T, Unref>;

// Where something is mounted, except at the root, the last one first: what is
// below another one comes before it. libmount turns back what the kernel
// escapes in names (blanks, tabs, newlines, backslashes).
Result<std::vector<std::string>> mount_points(FILE* in) {
  std::rewind(in);
  const Owned<libmnt_table> table(mnt_new_table());
  const Owned<libmnt_iter> iter(mnt_new_iter(MNT_ITER_BACKWARD));
  if (!table || !iter) return fail_sys(ENOMEM, "{}", kTable);
  if (const int ret = mnt_table_parse_stream(table.get(), in, kTable); ret != 0)
    return fail_sys(ret < 0 ? -ret : EPROTO, "{}: read", kTable);
  std::vector<std::string> points;
  libmnt_fs* fs = nullptr;
  while (mnt_table_next_fs(table.get(), iter.get(), &fs) == 0)
    if (const char* point = mnt_fs_get_target(fs);
        point && std::string_view(point) != "/")
      points.emplace_back(point);
  return points;
}

// What could not be unmounted, with the reason.
Result<std::map<std::string, int>> unmount_all(FILE* in) {
  std::map<std::string, int> why;
  for (const std::string& point : TRY(mount_points(in)))
    if (::umount2(point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
      why.insert_or_assign(point, errno);
  std::map<std::string, int> left;
  // Some go with the mount that they are below of.
  for (const std::string& point : TRY(mount_points(in))) {
    const auto reason = why.find(point);
    left.emplace(point, reason == why.end() ? EBUSY : reason->second);
  }
  return left;
}

}  // namespace

Result<void> leave_mounts() {
  if (::unshare(CLONE_NEWNS) != 0)
    return fail_sys(errno, "a mount namespace of its own");
  // Slaves, not private ones: if one of them stays, it goes when the host
  // unmounts it.
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return fail_sys(errno, "making the mounts slaves of the host's");
  // A directory that is used keeps its mount.
  if (::chdir("/") != 0) return fail_sys(errno, "chdir /");
  // It can be read when /proc has gone.
  const Owned<FILE> in(::fopen(kTable, "re"));
  if (!in) return fail_sys(errno, "{}: open", kTable);
  auto left = TRY(unmount_all(in.get()));
  if (left.empty()) {
    // Nothing has to leave any more, so nothing shall come either: it would
    // stay if the host made its mounts private before it unmounts it.
    if (::mount("none", "/", nullptr, MS_PRIVATE, nullptr) != 0)
      return fail_sys(errno, "making the root private");
    left = TRY(unmount_all(in.get()));
  }
  if (left.empty()) return {};
  std::string names;
  for (const auto& [point, reason] : left)
    names +=
        fmt("{}{} ({})", names.empty() ? "" : ", ", point, errno_name(reason));
  return std::unexpected(
      Error::plain(EBUSY, fmt("the server keeps mounts of the host: {}", names))
          .hint("what is mounted there may stay in use when the host has "
                "unmounted it, until the server ends"));
}

}  // namespace ublk
