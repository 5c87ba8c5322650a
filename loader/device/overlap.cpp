// SPDX-License-Identifier: MIT
#include "device/overlap.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>

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
  bool layer = false;
};

// To the end of the file, however long it is.
constexpr uint64_t kWhole = UINT64_MAX;

// A clone writes to its first layer only, anywhere.
std::vector<Part> parts_of(const TargetSpec& spec) {
  std::vector<Part> parts;
  const auto identity = [&](size_t i) {
    return i < spec.identities.size() ? &spec.identities[i] : nullptr;
  };
  for (size_t i = 0; i < spec.layers.size(); i++)
    parts.push_back({spec.layers[i].path, identity(i), 0, kWhole,
                     i == 0 && !spec.read_only, true});
  for (size_t i = 0; i < spec.files.size() && spec.layers.empty(); i++)
    parts.push_back({spec.files[i], identity(i), spec.offset_bytes,
                     spec.offset_bytes + spec.size_bytes, !spec.read_only});
  return parts;
}

// Those of its files that are not its target's: of these it has what that has.
std::vector<Part> parts_of(const AttachedState& program,
                           const TargetSpec* target, uint64_t size_bytes,
                           bool writes) {
  uint64_t from = 0;
  uint64_t to = kWhole;
  const auto knob = program.knobs.find("offset");
  if (knob != program.knobs.end() && program.identities.size() == 1) {
    const std::string& text = knob->second;
    std::from_chars(text.data(), text.data() + text.size(), from);
    if (from <= kWhole - size_bytes) to = from + size_bytes;
  }
  std::vector<Part> parts;
  for (size_t i = 0;
       i < std::min(program.files.size(), program.identities.size()); i++) {
    const FileIdentity& identity = program.identities[i];
    const bool own =
        target && std::ranges::any_of(target->identities, [&](const auto& its) {
          return its.same_as(identity);
        });
    if (!own) parts.push_back({program.files[i], &identity, from, to, writes});
  }
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
  if (ours.layer || theirs.layer)
    return Error::plain(EBUSY,
                        fmt("{}: {} has it already{}", ours.path, by, as))
        .hint(
            "a layer that is written is of one device, and what is below "
            "one is not written");
  if (theirs.to == kWhole)
    return Error::plain(EBUSY,
                        fmt("{}: {} has it already{}", ours.path, by, as))
        .hint("--shared lets both have it");
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

// Likewise what its program has, if it still is the one that is attached.
std::vector<Part> program_parts_of(Control& control, const DeviceState& state) {
  const auto info = control.bpf_info(state.dev_id);
  if (!info || info->prog_id != state.attached->prog_id) return {};
  const auto params = control.params(state.dev_id);
  if (!params) return {};
  return parts_of(*state.attached, &state.target,
                  uint64_t{params->basic.dev_sectors} << kSectorShift,
                  !(params->basic.attrs & UBLK_ATTR_READ_ONLY));
}

// EBUSY: one of these claims has bytes in common with what this device has.
Result<void> check_against(Control& control, const DeviceState& state,
                           const std::vector<std::vector<Part>>& claims) {
  const std::string name = device_name(state.dev_id);
  const auto theirs = parts_of(state.target);
  const auto program = state.attached
                           ? parts_of(*state.attached, &state.target, 0, true)
                           : std::vector<Part>();
  // The kernel is asked for its size only of those with the same file.
  std::optional<TargetSpec> target;
  for (const auto& claim : claims) {
    if (same_file(claim, theirs)) {
      if (!target) target = claim_of(control, state);
      if (!target) return {};
      if (const auto both = overlap(claim, parts_of(*target)))
        return std::unexpected(in_use(*both, name));
    }
    if (same_file(claim, program))
      if (const auto both = overlap(claim, program_parts_of(control, state)))
        return std::unexpected(in_use(*both, "the program of " + name));
  }
  return {};
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
    if (const DeviceState* state = states.find(dev_id))
      TRY(check_against(control, *state, ours));
  }
  return {};
}

Result<void> check_program_files(Control& control, const StateStore& states,
                                 const Device& device,
                                 const AttachedState& program) {
  const TargetSpec* target = device.state ? &device.state->target : nullptr;
  const std::vector<std::vector<Part>> ours{
      parts_of(program, target, device.size_bytes(), !device.read_only())};
  if (ours.front().empty()) return {};
  for (const uint32_t dev_id : states.ids()) {
    if (dev_id == device.info.dev_id) continue;
    if (const auto state = states.load(dev_id))
      TRY(check_against(control, *state, ours));
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
