// SPDX-License-Identifier: MIT
#include "prog/loaded.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <optional>

namespace ublk {

namespace {

// With room for this many ids of maps.
Result<bpf_prog_info> info_of(int fd, std::vector<uint32_t>& map_ids) {
  bpf_prog_info info{};
  info.nr_map_ids = static_cast<uint32_t>(map_ids.size());
  info.map_ids = reinterpret_cast<uintptr_t>(map_ids.data());
  uint32_t len = sizeof(info);
  if (const int code = errno_of(bpf_prog_get_info_by_fd(fd, &info, &len)))
    return fail_sys(code, "what a program is");
  return info;
}

// Nothing if it is not wanted.
Result<std::optional<LoadedProgram>> look_at(
    uint32_t id, UniqueFd fd,
    const std::function<bool(std::string_view)>& wanted) {
  std::vector<uint32_t> map_ids;
  bpf_prog_info info = TRY(info_of(fd.get(), map_ids));
  const std::string name(info.name);
  if (!wanted(name)) return std::nullopt;
  map_ids.resize(info.nr_map_ids);
  info = TRY(info_of(fd.get(), map_ids));
  return LoadedProgram{
      .id = id, .name = name, .fd = std::move(fd), .map_ids = map_ids};
}

}  // namespace

Result<std::vector<LoadedProgram>> loaded_programs(
    const std::function<bool(std::string_view)>& wanted) {
  std::vector<LoadedProgram> programs;
  for (uint32_t id = 0;;) {
    int code = errno_of(bpf_prog_get_next_id(id, &id));
    if (code == ENOENT) return programs;
    if (code) return fail_sys(code, "the program after {}", id);
    UniqueFd fd(bpf_prog_get_fd_by_id(id));
    code = fd.valid() ? 0 : errno;
    if (code == ENOENT) continue;  // it has gone meanwhile
    if (code) return fail_sys(code, "program {}", id);
    if (auto program = TRY(look_at(id, std::move(fd), wanted)))
      programs.push_back(std::move(*program));
  }
}

Result<void> put_map(int maps_fd, uint32_t index, int map_fd) {
  const int ret = bpf_map_update_elem(maps_fd, &index, &map_fd, BPF_ANY);
  if (const int code = errno_of(ret))
    return fail_sys(code, "map into entry {}", index);
  return {};
}

Result<void> take_map(int maps_fd, uint32_t index) {
  const int code = errno_of(bpf_map_delete_elem(maps_fd, &index));
  if (code && code != ENOENT) return fail_sys(code, "map of entry {}", index);
  return {};
}

uint32_t map_at(int maps_fd, uint32_t index) {
  uint32_t id = 0;
  return errno_of(bpf_map_lookup_elem(maps_fd, &index, &id)) ? 0 : id;
}

}  // namespace ublk
