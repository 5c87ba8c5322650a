// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// What the kernel knows of a map.
struct MapInfo {
  uint32_t id = 0;
  std::string name{};  // its first 15 characters
  uint32_t type = 0;
  uint32_t key_bytes = 0;
  uint32_t value_bytes = 0;
  uint32_t max_entries = 0;
  uint32_t flags = 0;

  // The constants of a program, knobs among them: not to be changed.
  bool is_constants() const { return name.ends_with(".rodata"); }
};

// "percpu_array", as bpftool calls it.
std::string map_type_name(uint32_t type);
// "percpu_array of 6 entries, key 4 and value 336 bytes".
std::string map_shape(const MapInfo& map);

// Takes CAP_SYS_ADMIN, whoever made it.
Result<UniqueFd> open_map(uint32_t id);
Result<MapInfo> map_info(int fd);
// Maps that these programs use, each once, by id. Programs that have gone
// meanwhile have none.
Result<std::vector<MapInfo>> maps_of_programs(std::span<const int> prog_fds);
Result<std::vector<MapInfo>> maps_of_program_ids(
    std::span<const uint32_t> prog_ids);

}  // namespace ublk
