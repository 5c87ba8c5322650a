// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "prog/face.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// The programs that come with this command, and what targets have in common
// that have one of their own, which their server attaches, and maps that both
// use.

// "clone.bpf.o": beside this command in its build tree, or where it is
// installed. ENOENT: is in neither place.
Result<std::string> find_own_object(const char* name);

// Whether it is the name of such a program, as "loop", rather than a path: it
// has no '/' and does not end in ".o".
bool is_program_name(std::string_view object);
// The path of an object that is given by its path, which is returned as it is,
// or by the name of a program that comes with this command. ENOENT: there is
// none of this name.
Result<std::string> find_object(const std::string& object);

// For programs of version 2 of the kernel's contract. EOPNOTSUPP: this kernel
// takes none, or those of version 1, of which `lack` says what they lack.
Result<FaceInfo> own_program_face(const char* lack);

// An array that can be mapped, for both. `flags`: BPF_F_* beside that.
Result<UniqueFd> make_shared_map(const char* name, uint32_t value_bytes,
                                 uint64_t entries, uint32_t flags = 0);
// The one with this id, with as many entries or more. ENOENT: it has gone, and
// its id may be another map's by now.
Result<UniqueFd> find_shared_map(uint32_t id, const char* name,
                                 uint32_t value_bytes, uint64_t entries);

}  // namespace ublk
