// SPDX-License-Identifier: MIT
#include "device/mirror.h"

#include <bpf/bpf.h>
#include <ublk_bpf_maps.h>

#include <memory>

#include "device/state.h"
#include "prog/maps.h"
#include "server/legs.h"

namespace ublk {

namespace {

constexpr uint32_t kKey = 0;

Result<void> write_map(int fd, uint32_t failed) {
  const ublk_bpf_mirror value = {.failed = failed, .pad = 0};
  const int ret = bpf_map_update_elem(fd, &kKey, &value, BPF_ANY);
  if (const int code = errno_of(ret))
    return fail_sys(code, "map {}", UBLK_BPF_MIRROR_MAP);
  return {};
}

Result<UniqueFd> make_map() {
  const int fd =
      bpf_map_create(BPF_MAP_TYPE_ARRAY, UBLK_BPF_MIRROR_MAP, sizeof(kKey),
                     sizeof(ublk_bpf_mirror), 1, nullptr);
  if (const int code = errno_of(fd))
    return fail_sys(code, "map {}", UBLK_BPF_MIRROR_MAP);
  return UniqueFd(fd);
}

// The one with this id, unless another map has got it.
UniqueFd find_map(uint32_t id) {
  auto fd = open_map(id);
  if (!fd) return {};
  const auto info = map_info(fd->get());
  if (!info || info->name != UBLK_BPF_MIRROR_MAP ||
      info->value_bytes != sizeof(ublk_bpf_mirror))
    return {};
  return std::move(*fd);
}

std::string which_legs(const TargetSpec& spec, uint32_t failed) {
  std::string text;
  for (size_t leg = 0; leg < spec.files.size(); leg++)
    if (failed >> leg & 1)
      text +=
          fmt("{}leg {}, {}", text.empty() ? "" : "; ", leg, spec.files[leg]);
  return text;
}

}  // namespace

Result<uint32_t> connect_legs(Workplace& place, const ServeHooks& hooks,
                              const ublksrv_ctrl_dev_info& info, Target& target,
                              uint32_t map_id) {
  if (!target.legs) return 0;
  const std::string name = device_name(info.dev_id);
  // A server that has ended meanwhile may have noted more.
  if (const auto state = place.states.load(info.dev_id))
    target.legs->learn(state->target.failed_legs);
  auto map = std::make_shared<UniqueFd>();
  if (info.flags & UBLK_F_BPF) {
    if (map_id) *map = find_map(map_id);
    if (!map->valid()) {
      auto made = make_map();
      // It can be served all the same, without a program.
      if (!made) hooks.trouble(Error(made.error()).in(name));
      if (made) *map = std::move(*made);
    }
  }
  uint32_t id = 0;
  if (map->valid()) {
    TRY_IN(name, write_map(map->get(), target.legs->failed()));
    id = TRY_IN(name, map_info(map->get())).id;
  }
  // The state first: whoever comes after this process has that only.
  target.legs->on_failure([&states = place.states, &trouble = hooks.trouble,
                           dev_id = info.dev_id, name, map, spec = target.spec](
                              uint32_t failed) -> Result<void> {
    TRY(states.change(dev_id, [&](DeviceState& state) {
      state.target.failed_legs |= failed;
    }));
    if (map->valid()) TRY(write_map(map->get(), failed));
    trouble(Error::plain(EIO, fmt("{}: {}: has failed and is not used any more",
                                  name, which_legs(spec, failed))));
    return {};
  });
  return id;
}

}  // namespace ublk
