// SPDX-License-Identifier: MIT
#include "server/data_path.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

namespace ublk {

namespace {

// The best first. Every driver has copy, so "auto" goes no further; what is
// behind it is for those who ask.
constexpr std::array kPaths = {&kAutoZeroCopyPath, &kZeroCopyPath, &kCopyPath,
                               &kUserCopyPath, &kNeedGetDataPath};

}  // namespace

std::span<const DataPath* const> all_data_paths() { return kPaths; }

Result<const DataPath*> find_data_path(std::string_view name) {
  std::string names(kAutoDataPath);
  for (const DataPath* path : all_data_paths()) {
    if (path->name == name) return path;
    names += fmt(", {}", path->name);
  }
  return fail(EINVAL, "no data path '{}'; there are: {}", name, names);
}

const DataPath& data_path_of(uint64_t dev_flags) {
  const DataPath* found = &kCopyPath;
  // A path's flags may be a part of another's.
  for (const DataPath* path : all_data_paths())
    if ((dev_flags & path->flags) == path->flags &&
        std::popcount(path->flags) > std::popcount(found->flags))
      found = path;
  return *found;
}

Result<void> check_data_path(const DataPath& path, uint64_t features) {
  if ((features & path.flags) == path.flags) return {};
  return std::unexpected(
      Error::plain(EOPNOTSUPP,
                   fmt("data path {}: this kernel lacks it: needs {}",
                       path.name, path.needs))
          .hint("--data-path auto takes the best that there is"));
}

Result<void> check_batch(const DataPath& path, uint64_t features) {
  if (path.flags & UBLK_F_NEED_GET_DATA)
    return fail(EINVAL, "data path {}: cannot be had in batches (-b)",
                path.name);
  if (features & UBLK_F_BATCH_IO) return {};
  return std::unexpected(
      Error::plain(EOPNOTSUPP,
                   "batch I/O: this kernel lacks it: needs UBLK_F_BATCH_IO of "
                   "ublk_drv (linux 7.0 and later)")
          .hint("without -b"));
}

Result<const DataPath*> choose_data_path(std::string_view name,
                                         uint64_t features) {
  if (name == kAutoDataPath)
    return *std::ranges::find_if(kPaths, [&](const DataPath* path) {
      return check_data_path(*path, features).has_value();
    });
  const DataPath* path = TRY(find_data_path(name));
  TRY(check_data_path(*path, features));
  return path;
}

}  // namespace ublk
