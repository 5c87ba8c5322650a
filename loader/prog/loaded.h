// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// A program that the kernel has, whoever has loaded it. It stays while the
// descriptor is open.
struct LoadedProgram {
  uint32_t id = 0;
  std::string name{};  // its first 15 characters
  UniqueFd fd{};
  std::vector<uint32_t> map_ids{};
};

// Those whose names are wanted, in the order in which they were loaded. Takes
// CAP_SYS_ADMIN.
Result<std::vector<LoadedProgram>> loaded_programs(
    const std::function<bool(std::string_view name)>& wanted);

// Entries of a BPF_MAP_TYPE_ARRAY_OF_MAPS. Each change waits until no program
// runs that could see what was there before (bpf(2) on a map of maps).
Result<void> put_map(int maps_fd, uint32_t index, int map_fd);
Result<void> take_map(int maps_fd, uint32_t index);
// The id of the map that is there, 0 if there is none.
uint32_t map_at(int maps_fd, uint32_t index);

}  // namespace ublk
