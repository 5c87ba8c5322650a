// SPDX-License-Identifier: MIT
#pragma once

#include <sched.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sys/error.h"

namespace ublk {

// "0-3,8": numbers and ranges, as cpuset(7)'s list format has them. The CPUs in
// order, each once, at least one. EINVAL: anything else, or a CPU that a
// cpu_set_t cannot hold.
Result<std::vector<uint16_t>> parse_cpu_list(std::string_view text);
std::string cpu_list(const std::vector<uint16_t>& cpus);

std::vector<uint16_t> cpus_of(const cpu_set_t& set);
cpu_set_t cpu_set_of(const std::vector<uint16_t>& cpus);

}  // namespace ublk
