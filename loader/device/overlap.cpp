// SPDX-License-Identifier: MIT
#include "device/overlap.h"

#include <algorithm>
#include <cerrno>
#include <optional>

#include "device/device.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

bool overlap(const TargetSpec& spec, const TargetSpec& other) {
  if (spec.read_only && other.read_only) return false;
  const auto same = [&](size_t i, size_t j) {
    // States of earlier versions have no identities.
    return j < other.identities.size() && i < spec.identities.size()
               ? spec.identities[i].same_as(other.identities[j])
               : spec.files[i] == other.files[j];
  };
  for (size_t i = 0; i < spec.files.size(); i++)
    for (size_t j = 0; j < other.files.size(); j++)
      if (same(i, j) &&
          spec.offset_bytes < other.offset_bytes + other.size_bytes &&
          other.offset_bytes < spec.offset_bytes + spec.size_bytes)
        return true;
  return false;
}

// With the size that it has, where it was left to the file.
TargetSpec sized(TargetSpec spec, const ublk_params& params) {
  spec.size_bytes = uint64_t{params.basic.dev_sectors} << kSectorShift;
  return spec;
}

Error in_use(const TargetSpec& spec, const std::string& by,
             const TargetSpec& other) {
  return Error::plain(EBUSY, fmt("{}: {} has its bytes {} to {} already{}",
                                 spec.files[0], by, other.offset_bytes,
                                 other.offset_bytes + other.size_bytes,
                                 spec.files[0] == other.files[0]
                                     ? ""
                                     : fmt(", as {}", other.files[0])))
      .hint("--shared lets both have it, --read-only of both too");
}

// What a device of ours has; nothing: it has gone, or is dead.
std::optional<TargetSpec> claim_of(Control& control, const StateStore& states,
                                   uint32_t dev_id) {
  const auto state = states.load(dev_id);
  if (!state || state->target.files.empty()) return std::nullopt;
  const auto info = control.info(dev_id);
  if (!info || info->state == UBLK_S_DEV_DEAD) return std::nullopt;
  const auto params = control.params(dev_id);
  if (!params) return std::nullopt;
  return sized(state->target, *params);
}

}  // namespace

TargetSpec claim_of(const Target& target) {
  return sized(target.spec, target.params);
}

Result<void> check_claims(Control& control, const StateStore& states,
                          const std::vector<TargetSpec>& claims,
                          const std::vector<uint32_t>& except) {
  const auto has_files = [](const TargetSpec& claim) {
    return !claim.files.empty();
  };
  if (std::ranges::none_of(claims, has_files)) return {};
  for (size_t i = 0; i < claims.size(); i++)
    for (size_t j = 0; j < i; j++)
      if (overlap(claims[i], claims[j]))
        return std::unexpected(in_use(claims[i], "another -f", claims[j]));
  for (const uint32_t dev_id : states.ids()) {
    if (std::ranges::contains(except, dev_id)) continue;
    const auto other = claim_of(control, states, dev_id);
    if (!other) continue;
    for (const TargetSpec& claim : claims)
      if (overlap(claim, *other))
        return std::unexpected(in_use(claim, device_name(dev_id), *other));
  }
  return {};
}

}  // namespace ublk
