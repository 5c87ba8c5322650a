// SPDX-License-Identifier: MIT
#include "device/pins.h"

#include <bpf/bpf.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "ctrl/control.h"

namespace ublk {

namespace {

constexpr const char* kNew = "_new";

std::string pin_name(const MapInfo& map) {
  std::string name = map.name.empty() ? fmt("map{}", map.id) : map.name;
  std::ranges::replace(name, '.', '_');
  return name;
}

std::string path_of(const Pins& pins, const std::string& name) {
  return fmt("{}/{}", pins.dir, name);
}

Result<void> make_dir(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return fail_sys(errno, "{}: mkdir", dir);
}

bool on_bpffs(const std::string& path) {
  struct statfs fs{};
  return ::statfs(path.c_str(), &fs) == 0 && fs.f_type == BPF_FS_MAGIC;
}

}  // namespace

Result<NewPins> NewPins::create(const std::string& dir, uint32_t dev_id,
                                std::span<const MapInfo> maps) {
  std::error_code ec;
  const auto full = std::filesystem::absolute(dir, ec).lexically_normal();
  // Before anything is made on another file system.
  if (!on_bpffs(full) && !on_bpffs(full.parent_path()))
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: is not in a BPF file system", dir))
            .hint("a directory below /sys/fs/bpf, where it is mounted: mount "
                  "-t bpf bpf /sys/fs/bpf"));
  TRY(make_dir(full));
  NewPins made;
  made.pins_.dir = full / device_name(dev_id);
  TRY(make_dir(made.pins_.dir));
  for (const MapInfo& map : maps) {
    if (map.is_constants()) continue;
    const UniqueFd fd = TRY(open_map(map.id));
    std::string name = pin_name(map);
    // Two names that only differ beyond what the kernel keeps of them.
    if (std::ranges::contains(made.pins_.names, name))
      name += fmt("_{}", map.id);
    const std::string path = path_of(made.pins_, name + kNew);
    // Of a command that was interrupted.
    ::unlink(path.c_str());
    if (const int code = errno_of(bpf_obj_pin(fd.get(), path.c_str())))
      return fail_sys(code, "{}: pin of map {}", path, map.name);
    made.pins_.names.push_back(name);
  }
  return made;
}

NewPins::~NewPins() {
  if (pins_.dir.empty()) return;
  for (const std::string& name : pins_.names)
    ::unlink(path_of(pins_, name + kNew).c_str());
  ::rmdir(pins_.dir.c_str());
}

Result<Pins> NewPins::publish() {
  for (const std::string& name : pins_.names) {
    const std::string path = path_of(pins_, name);
    if (std::rename((path + kNew).c_str(), path.c_str()) != 0)
      return fail_sys(errno, "{}: rename", path);
  }
  return std::exchange(pins_, {});
}

void remove_pins(const Pins& old, const Pins& now) {
  if (old.dir.empty()) return;
  for (const std::string& name : old.names)
    if (old.dir != now.dir || !std::ranges::contains(now.names, name))
      ::unlink(path_of(old, name).c_str());
  ::rmdir(old.dir.c_str());
}

std::vector<std::string> pinned_paths(const Pins& pins,
                                      std::span<const MapInfo> maps) {
  std::vector<std::string> paths(maps.size());
  for (const std::string& name : pins.names) {
    const std::string path = path_of(pins, name);
    const UniqueFd fd(bpf_obj_get(path.c_str()));
    const auto there = fd.valid() ? map_info(fd.get()) : MapInfo{};
    for (size_t i = 0; i < maps.size(); i++)
      if (there && there->id == maps[i].id) paths[i] = path;
  }
  return paths;
}

}  // namespace ublk
