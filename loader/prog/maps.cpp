// SPDX-License-Identifier: MIT
#include "prog/maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <set>

namespace ublk {

namespace {

Result<void> add_ids(int prog_fd, std::set<uint32_t>& ids) {
  bpf_prog_info info{};
  uint32_t len = sizeof(info);
  int ret = bpf_prog_get_info_by_fd(prog_fd, &info, &len);
  std::vector<uint32_t> found(errno_of(ret) ? 0 : info.nr_map_ids);
  if (!found.empty()) {
    info = {};
    info.nr_map_ids = static_cast<uint32_t>(found.size());
    info.map_ids = reinterpret_cast<uintptr_t>(found.data());
    len = sizeof(info);
    ret = bpf_prog_get_info_by_fd(prog_fd, &info, &len);
  }
  if (const int code = errno_of(ret))
    return fail_sys(code, "maps of a program");
  ids.insert(found.begin(), found.end());
  return {};
}

}  // namespace

std::string map_type_name(uint32_t type) {
  const char* name = libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type));
  return name ? name : fmt("type {}", type);
}

std::string map_shape(const MapInfo& map) {
  return fmt("{} of {} entries, key {} and value {} bytes",
             map_type_name(map.type), map.max_entries, map.key_bytes,
             map.value_bytes);
}

Result<UniqueFd> open_map(uint32_t id) {
  const int fd = bpf_map_get_fd_by_id(id);
  if (const int code = errno_of(fd)) return fail_sys(code, "map {}", id);
  return UniqueFd(fd);
}

Result<MapInfo> map_info(int fd) {
  bpf_map_info info{};
  uint32_t len = sizeof(info);
  if (const int code = errno_of(bpf_map_get_info_by_fd(fd, &info, &len)))
    return fail_sys(code, "what a map is");
  return MapInfo{.id = info.id,
                 .name = info.name,
                 .type = info.type,
                 .key_bytes = info.key_size,
                 .value_bytes = info.value_size,
                 .max_entries = info.max_entries,
                 .flags = info.map_flags};
}

Result<std::vector<MapInfo>> maps_of_programs(std::span<const int> prog_fds) {
  std::set<uint32_t> ids;
  for (const int fd : prog_fds) TRY(add_ids(fd, ids));
  std::vector<MapInfo> maps;
  for (const uint32_t id : ids) {
    const auto map = open_map(id);
    // Its program has gone meanwhile, and it with that.
    if (!map && map.error().code() == ENOENT) continue;
    if (!map) return std::unexpected(map.error());
    maps.push_back(TRY(map_info(map->get())));
  }
  return maps;
}

Result<std::vector<MapInfo>> maps_of_program_ids(
    std::span<const uint32_t> prog_ids) {
  std::vector<UniqueFd> programs;
  std::vector<int> fds;
  for (const uint32_t id : prog_ids) {
    if (!id) continue;
    const int fd = bpf_prog_get_fd_by_id(id);
    const int code = errno_of(fd);
    if (code == ENOENT) continue;
    if (code) return fail_sys(code, "program {}", id);
    fds.push_back(programs.emplace_back(fd).get());
  }
  return maps_of_programs(fds);
}

}  // namespace ublk
