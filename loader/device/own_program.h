// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// What targets have in common that have a program of their own, which their
// server attaches, and maps that both use.

// "clone.bpf.o": beside this command in its build tree, or where it is
// installed. ENOENT: is in neither place.
Result<std::string> find_own_object(const char* name);

// An array that can be mapped, for both.
Result<UniqueFd> make_shared_map(const char* name, uint32_t value_bytes,
                                 uint64_t entries);
// The one with this id, with as many entries or more. ENOENT: it has gone, and
// its id may be another map's by now.
Result<UniqueFd> find_shared_map(uint32_t id, const char* name,
                                 uint32_t value_bytes, uint64_t entries);

}  // namespace ublk
