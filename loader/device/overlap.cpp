// SPDX-License-Identifier: MIT
#include "device/overlap.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "device/device.h"
#include "sys/file_identity.h"
#include "sys/sizes.h"
#include "sys/unique_fd.h"

namespace ublk {

namespace {

// Bytes of a file that a device has.
struct Part {
  std::string path;
  const FileIdentity* identity;  // null: of a state of earlier versions
  uint64_t from;                 // bytes
  uint64_t to;
  bool writes;
};

// A clone writes to its first layer only, anywhere.
std::vector<Part> parts_of(const TargetSpec& spec) {
  std::vector<Part> parts;
  const auto identity = [&](size_t i) {
    return i < spec.identities.size() ? &spec.identities[i] : nullptr;
  };
  for (size_t i = 0; i < spec.layers.size(); i++)
    parts.push_back({spec.layers[i].path, identity(i), 0, UINT64_MAX,
                     i == 0 && !spec.read_only});
  for (size_t i = 0; i < spec.files.size() && spec.layers.empty(); i++)
    parts.push_back({spec.files[i], identity(i), spec.offset_bytes,
                     spec.offset_bytes + spec.size_bytes, !spec.read_only});
  return parts;
}

struct Overlap {
  Part ours;
  Part theirs;
};
bool same_file(const Part& a, const Part& b) {
  if (!a.writes && !b.writes) return false;
  return a.identity && b.identity ? a.identity->same_as(*b.identity)
                                  : a.path == b.path;
}

// Whether one of them writes to a file that the other one has, too.
bool same_file(const std::vector<Part>& ours, const std::vector<Part>& theirs) {
  return std::ranges::any_of(ours, [&](const Part& a) {
    return std::ranges::any_of(theirs,
                               [&](const Part& b) { return same_file(a, b); });
  });
}

std::optional<Overlap> overlap(const std::vector<Part>& ours,
                               const std::vector<Part>& theirs) {
  for (const Part& a : ours)
    for (const Part& b : theirs)
      if (same_file(a, b) && a.from < b.to && b.from < a.to)
        return Overlap{a, b};
  return std::nullopt;
}

// With the size that it has, where it was left to the file.
TargetSpec sized(TargetSpec spec, const ublk_params& params) {
  spec.size_bytes = uint64_t{params.basic.dev_sectors} << kSectorShift;
  return spec;
}

Error in_use(const Overlap& both, const std::string& by) {
  const auto& [ours, theirs] = both;
  const std::string as =
      ours.path == theirs.path ? "" : fmt(", as {}", theirs.path);
  if (ours.to == UINT64_MAX || theirs.to == UINT64_MAX)
    return Error::plain(EBUSY,
                        fmt("{}: {} has it already{}", ours.path, by, as))
        .hint(
            "a layer that is written is of one device, and what is below "
            "one is not written");
  return Error::plain(EBUSY, fmt("{}: {} has its bytes {} to {} already{}",
                                 ours.path, by, theirs.from, theirs.to, as))
      .hint("--shared lets both have it, --read-only of both too");
}

// What a device of ours has; nothing: it has gone, or is dead.
std::optional<TargetSpec> claim_of(Control& control, const DeviceState& state) {
  const auto info = control.info(state.dev_id);
  if (!info || info->state == UBLK_S_DEV_DEAD) return std::nullopt;
  const auto params = control.params(state.dev_id);
  if (!params) return std::nullopt;
  return sized(state.target, *params);
}

}  // namespace

TargetSpec claim_of(const Target& target) {
  return sized(target.spec, target.params);
}

Result<void> check_claims(Control& control, KnownStates& states,
                          const std::vector<TargetSpec>& claims,
                          const std::vector<uint32_t>& except) {
  std::vector<std::vector<Part>> ours;
  for (const TargetSpec& claim : claims) ours.push_back(parts_of(claim));
  if (std::ranges::all_of(ours, &std::vector<Part>::empty)) return {};
  for (size_t i = 0; i < ours.size(); i++)
    for (size_t j = 0; j < i; j++)
      if (const auto both = overlap(ours[i], ours[j]))
        return std::unexpected(in_use(*both, "another -f"));
  for (const uint32_t dev_id : states.store().ids()) {
    if (std::ranges::contains(except, dev_id)) continue;
    const DeviceState* state = states.find(dev_id);
    if (!state) continue;
    const auto theirs = parts_of(state->target);
    // The kernel is asked for its size only of those.
    std::optional<TargetSpec> other;
    for (const auto& claim : ours) {
      if (!same_file(claim, theirs)) continue;
      if (!other) other = claim_of(control, *state);
      if (!other) break;
      if (const auto both = overlap(claim, parts_of(*other)))
        return std::unexpected(in_use(*both, device_name(dev_id)));
    }
  }
  return {};
}

Result<void> check_no_device_has(const StateStore& states,
                                 const std::string& layer) {
  // Whoever needs it says what is wrong with it.
  const auto fd = UniqueFd::open(layer, O_RDONLY);
  if (!fd) return {};
  const auto identity = FileIdentity::of(fd->get());
  if (!identity) return {};
  for (const uint32_t dev_id : states.ids()) {
    const auto state = states.load(dev_id);
    if (!state || !is_clone(state->target) || state->target.read_only ||
        state->target.identities.empty() ||
        !state->target.identities[0].same_as(*identity))
      continue;
    return std::unexpected(Error::plain(EBUSY, fmt("{}: {} writes to it", layer,
                                                   device_name(dev_id)))
                               .hint(fmt("ublk-bpf del -n {} first", dev_id)));
  }
  return {};
}

}  // namespace ublk
