// SPDX-License-Identifier: MIT
#include "device/loaded_clone.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <span>
#include <string_view>
#include <utility>

#include "device/device.h"
#include "device/own_program.h"
#include "layer/crc32c.h"
#include "prog/loaded.h"
#include "prog/maps.h"
#include "prog/object.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

constexpr const char* kProgram = "clone";
constexpr const char* kBuild = "build";

// As the kernel cuts the names of both faces off.
bool is_complete_half(std::string_view name) {
  return name == "clone_complete" || name == "clone_complete_";
}
bool is_half(std::string_view name) {
  return name == kProgram || name == "clone_so" || is_complete_half(name);
}

// Of the bytes of an object; never 0.
Result<uint64_t> build_of(const std::string& object) {
  const std::string text = TRY(read_text(object));
  return uint64_t{text.size()} << 32 | crc32c(std::as_bytes(std::span(text)));
}

Result<ProgramObject> open_object(const std::string& path, uint64_t build) {
  const FaceInfo face = TRY(own_program_face("have no completion half"));
  ProgramObject object = TRY(ProgramObject::open(path, face));
  TRY_IN(path, object.knobs().set(kBuild, fmt("{}", build)));
  return object;
}

}  // namespace

Result<std::vector<LoadedClone>> LoadedClone::all() {
  // Halves that have the map of bits in common belong together.
  std::map<uint32_t, LoadedClone> found;
  for (LoadedProgram& program : TRY(loaded_programs(is_half))) {
    LoadedClone one;
    uint32_t key = 0;
    for (const uint32_t id : program.map_ids) {
      auto map = open_map(id);
      if (!map) continue;
      const MapInfo info = TRY(map_info(map->get()));
      if (info.name == UBLK_BPF_DISK_BITS) {
        key = id;
        one.bits_ = std::move(*map);
      } else if (info.name == UBLK_BPF_DISK_CLONE) {
        one.shared_ = std::move(*map);
      } else if (info.name == UBLK_BPF_DISK_CHAIN) {
        one.chain_ = std::move(*map);
      } else if (info.is_constants()) {
        one.constants_ = std::move(*map);
      }
    }
    // Of another's that has the name, or of the version that had maps of its
    // own for each clone.
    if (!key || !one.shared_.valid() || !one.chain_.valid()) continue;
    const auto here = found.try_emplace(key, std::move(one)).first;
    if (is_complete_half(program.name)) {
      here->second.complete_ = std::move(program.fd);
    } else {
      here->second.prog_id_ = program.id;
      here->second.program_ = std::move(program.fd);
    }
  }
  std::vector<LoadedClone> all;
  for (auto& [key, one] : found)
    if (one.program_.valid() && one.complete_.valid())
      all.push_back(std::move(one));
  return all;
}

bool LoadedClone::is_of(uint64_t build) const {
  const auto info = map_info(constants_.get());
  if (!info || info->value_bytes % sizeof(build)) return false;
  std::vector<uint64_t> values(info->value_bytes / sizeof(build));
  const uint32_t key = 0;
  return !errno_of(
             bpf_map_lookup_elem(constants_.get(), &key, values.data())) &&
         std::ranges::contains(values, build);
}

Result<LoadedClone> LoadedClone::get_if(
    const std::function<bool(const LoadedClone&)>& fits) {
  const std::string path = TRY(find_own_object("clone.bpf.o"));
  const uint64_t build = TRY(build_of(path));
  const auto find = [&](const auto& is_it) -> Result<LoadedClone> {
    for (LoadedClone& one : TRY(all()))
      if (is_it(one)) {
        one.object_ = path;
        return std::move(one);
      }
    return fail(ENOENT, "{}: its program has gone while it was loaded", path);
  };
  auto there = find(
      [&](const LoadedClone& one) { return one.is_of(build) && fits(one); });
  if (there || there.error().code() != ENOENT) return there;
  ProgramObject object = TRY(open_object(path, build));
  TRY(object.load(kProgram));
  const uint32_t id = TRY(object.id());
  return find([id](const LoadedClone& one) { return one.prog_id() == id; });
}

Result<std::shared_ptr<const LoadedClone>> LoadedClone::get() {
  // All clones that this process is adding have one.
  static std::weak_ptr<const LoadedClone> last;
  auto found = last.lock();
  if (!found) {
    found = std::make_shared<LoadedClone>(
        TRY(get_if([](const LoadedClone&) { return true; })));
    last = found;
  }
  return found;
}

Result<std::shared_ptr<const LoadedClone>> LoadedClone::get_other(
    uint32_t dev_id, uint32_t attached) {
  return std::make_shared<const LoadedClone>(
      TRY(get_if([=](const LoadedClone& one) {
        const CloneMaps maps = one.maps_of(dev_id);
        return one.prog_id() != attached && !maps.bits && !maps.shared;
      })));
}

Result<void> LoadedClone::enter(uint32_t dev_id, int bits_fd, int shared_fd,
                                const ublk_bpf_clone_chain& chain) const {
  if (dev_id >= UBLK_BPF_DISKS)
    return std::unexpected(
        Error::plain(EOPNOTSUPP,
                     fmt("the program of clones serves devices below {}",
                         UBLK_BPF_DISKS))
            .hint("--no-bpf has the server serve it alone"));
  if (const int code =
          errno_of(bpf_map_update_elem(chain_.get(), &dev_id, &chain, BPF_ANY)))
    return fail_sys(code, "{}: entry {}", UBLK_BPF_DISK_CHAIN, dev_id);
  // Who sees the state has the bits, too.
  TRY_IN(UBLK_BPF_DISK_BITS, put_map(bits_.get(), dev_id, bits_fd));
  if (auto put = put_map(shared_.get(), dev_id, shared_fd); !put) {
    (void)take_map(bits_.get(), dev_id);
    return std::unexpected(std::move(put).error().in(UBLK_BPF_DISK_CLONE));
  }
  return {};
}

Result<void> LoadedClone::leave(uint32_t dev_id) const {
  TRY_IN(UBLK_BPF_DISK_CLONE, take_map(shared_.get(), dev_id));
  TRY_IN(UBLK_BPF_DISK_BITS, take_map(bits_.get(), dev_id));
  return {};
}

CloneMaps LoadedClone::maps_of(uint32_t dev_id) const {
  return {.bits = map_at(bits_.get(), dev_id),
          .shared = map_at(shared_.get(), dev_id)};
}

std::vector<uint32_t> LoadedClone::dev_ids() const {
  std::vector<uint32_t> ids;
  for (uint32_t dev_id = 0; dev_id < UBLK_BPF_DISKS; dev_id++)
    if (map_at(bits_.get(), dev_id) || map_at(shared_.get(), dev_id))
      ids.push_back(dev_id);
  return ids;
}

namespace {

Result<void> leave_if(
    uint32_t dev_id,
    const std::function<bool(const LoadedClone&, CloneMaps)>& wanted) {
  auto all = LoadedClone::all();
  if (!all) {
    // Who may not look at programs has attached none; nor has a kernel without.
    const int code = all.error().code();
    if (code == EPERM || code == ENOSYS) return {};
    return std::unexpected(std::move(all).error());
  }
  for (const LoadedClone& one : *all) {
    const CloneMaps maps = one.maps_of(dev_id);
    if ((maps.bits || maps.shared) && wanted(one, maps)) TRY(one.leave(dev_id));
  }
  return {};
}

}  // namespace

Result<void> leave_loaded_clones(uint32_t dev_id) {
  return leave_if(dev_id, [](const LoadedClone&, CloneMaps) { return true; });
}

Result<void> leave_loaded_clones(uint32_t dev_id, CloneMaps maps) {
  return leave_if(dev_id, [maps](const LoadedClone&, CloneMaps those) {
    return those.bits == maps.bits && those.shared == maps.shared;
  });
}

Result<void> leave_other_clones(uint32_t dev_id, uint32_t attached) {
  return leave_if(dev_id, [attached](const LoadedClone& one, CloneMaps) {
    return one.prog_id() != attached;
  });
}

}  // namespace ublk
