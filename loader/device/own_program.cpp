// SPDX-License-Identifier: MIT
#include "device/own_program.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <filesystem>

#include "prog/maps.h"
#include "sys/process.h"

namespace ublk {

Result<std::string> find_own_object(const char* name) {
  const auto dir = std::filesystem::path(own_path()).parent_path();
  std::error_code ignored;
  std::string tried;
  for (const char* where : {"../bpf", "../lib/ublk-bpf/bpf"}) {
    const auto path = (dir / where / name).lexically_normal();
    if (std::filesystem::exists(path, ignored)) return path.string();
    tried += (tried.empty() ? "" : " nor ") + path.string();
  }
  return fail(ENOENT, "{}: is neither {}", name, tried);
}

bool is_program_name(std::string_view object) {
  return !object.contains('/') && !object.ends_with(".o");
}

Result<std::string> find_object(const std::string& object) {
  if (!is_program_name(object)) return object;
  auto found = find_own_object((object + ".bpf.o").c_str());
  if (!found)
    return std::unexpected(
        std::move(found).error().hint("a file's name has a '/' or ends in .o"));
  return found;
}

Result<FaceInfo> own_program_face(const char* lack) {
  const FaceInfo face = detect_face();
  if (face.face == Face::none)
    return fail(EOPNOTSUPP,
                "this kernel has no ublk programs: the server serves alone");
  if (face.version == 1)
    return fail(EOPNOTSUPP,
                "this kernel's ublk programs {}: the server serves alone",
                lack);
  return face;
}

Result<UniqueFd> make_shared_map(const char* name, uint32_t value_bytes,
                                 uint64_t entries, uint32_t flags) {
  bpf_map_create_opts options{};
  options.sz = sizeof(options);
  options.map_flags = BPF_F_MMAPABLE | flags;
  const int fd =
      bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof(uint32_t), value_bytes,
                     static_cast<uint32_t>(entries), &options);
  if (const int code = errno_of(fd)) return fail_sys(code, "map {}", name);
  return UniqueFd(fd);
}

Result<UniqueFd> find_shared_map(uint32_t id, const char* name,
                                 uint32_t value_bytes, uint64_t entries) {
  UniqueFd fd = TRY(open_map(id));
  const MapInfo info = TRY(map_info(fd.get()));
  if (info.name != name || info.value_bytes != value_bytes ||
      info.max_entries < entries || !(info.flags & BPF_F_MMAPABLE))
    return fail(ENOENT, "map {}: is not the device's {}", id, name);
  return fd;
}

}  // namespace ublk
