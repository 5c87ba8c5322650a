// SPDX-License-Identifier: MIT
#include "device/gc.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <optional>
#include <set>
#include <thread>

#include "device/device.h"
#include "device/lifecycle.h"
#include "device/loaded_clone.h"
#include "device/server_process.h"
#include "sys/process.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;

// A device that is between two states for longer than that is not any more.
constexpr auto kSecondLook = 500ms;

// What may be an orphan; nothing if it is not.
// `open` are those whose /dev/ublkcN a process has open.
std::optional<Orphan> look_at(const ublksrv_ctrl_dev_info& info,
                              const StateStore& states, bool waiting,
                              const std::set<uint32_t>& open) {
  Orphan orphan{.dev_id = info.dev_id};
  const bool served = open.contains(info.dev_id);
  switch (info.state) {
    case UBLK_S_DEV_LIVE:
      if (served) return std::nullopt;
      orphan.why = "its server has gone just now";
      return orphan;
    case UBLK_S_DEV_DEAD:
      if (served) return std::nullopt;
      orphan.why = "is dead and nobody has it";
      orphan.cleared = true;
      return orphan;
    default:
      if (served) return std::nullopt;
      orphan.cleared = waiting;
      orphan.why = states.load(info.dev_id)
                       ? fmt("waits for ublk-bpf recover -n {}", info.dev_id)
                       : "waits for its own tool's recovery";
      return orphan;
  }
}

Result<void> collect_devices(Control& control, const StateStore& states,
                             const GcOptions& options,
                             std::vector<Orphan>& orphans) {
  std::vector<uint32_t> suspects;
  auto open = open_devices();
  for (const uint32_t dev_id : device_ids()) {
    const auto info = control.info(dev_id);
    if (info && look_at(*info, states, options.waiting, open))
      suspects.push_back(dev_id);
  }
  // Servers come and go: what is an orphan stays one.
  if (suspects.empty()) return {};
  std::this_thread::sleep_for(kSecondLook);
  open = open_devices();
  for (const uint32_t dev_id : suspects) {
    const auto info = control.info(dev_id);
    if (!info) continue;
    auto orphan = look_at(*info, states, options.waiting, open);
    if (!orphan) continue;
    if (orphan->cleared && !options.dry_run) {
      auto removed = remove_device(control, states, dev_id);
      if (!removed && removed.error().code() != ENODEV) {
        // One's trouble is not the others'.
        orphan->cleared = false;
        orphan->why = removed.error().message();
        const std::string name = device_name(dev_id) + ": ";
        if (orphan->why.starts_with(name)) orphan->why.erase(0, name.size());
      }
    }
    orphans.push_back(std::move(*orphan));
  }
  return {};
}

// "7.json.4711.new": the process that was writing it.
std::optional<pid_t> writer_of(std::string_view name) {
  constexpr std::string_view kEnd = ".new";
  if (!name.ends_with(kEnd)) return std::nullopt;
  name.remove_suffix(kEnd.size());
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  pid_t pid = 0;
  const auto [end, bad] =
      std::from_chars(name.data() + dot + 1, name.data() + name.size(), pid);
  if (bad != std::errc() || end != name.data() + name.size())
    return std::nullopt;
  return pid;
}

// "7.map", "7.udev"
std::optional<uint32_t> device_of(const std::string& name) {
  uint32_t id = 0;
  std::from_chars(name.data(), name.data() + name.size(), id);
  return map_file_name(id) == name || udev_file_name(id) == name
             ? std::optional(id)
             : std::nullopt;
}

// Why a program's entries of this device are nobody's; nothing if they are
// somebody's, or may be. Its own state has the maps that are in use, or will
// be.
std::optional<std::string> why_left(Control& control, const StateStore& states,
                                    const LoadedClone& program,
                                    uint32_t dev_id) {
  const CloneMaps maps = program.maps_of(dev_id);
  if (const auto state = states.load(dev_id);
      state && maps.bits && maps.bits == state->clone_maps.bits)
    return std::nullopt;
  const auto device = control.info(dev_id);
  if (!device && device.error().code() == ENODEV)
    return fmt("program {} has them, and its device is not there",
               program.prog_id());
  const auto info = control.bpf_info(dev_id);
  if (info ? info->prog_id == program.prog_id() || info->nr_retiring
           : info.error().code() != EOPNOTSUPP)
    return std::nullopt;
  return fmt("program {} has them, and its device another program",
             program.prog_id());
}

// After the states: to forget one of them takes its maps away, too.
void collect_maps(Control& control, const StateStore& states, bool dry_run,
                  std::vector<Orphan>& orphans) {
  const auto programs = LoadedClone::all();
  if (!programs) return;  // a kernel, or a user, without
  for (const LoadedClone& program : *programs)
    for (const uint32_t dev_id : program.dev_ids()) {
      auto why = why_left(control, states, program, dev_id);
      if (!why) continue;
      Orphan& orphan = orphans.emplace_back(Orphan{.kind = Orphan::Kind::maps,
                                                   .dev_id = dev_id,
                                                   .cleared = true,
                                                   .why = std::move(*why)});
      if (dry_run) continue;
      if (auto left = program.leave(dev_id); !left) {
        orphan.cleared = false;
        orphan.why = left.error().message();
      }
    }
}

}  // namespace

Result<std::vector<Orphan>> collect_garbage(Control& control,
                                            const StateStore& states,
                                            const GcOptions& options) {
  std::vector<Orphan> orphans;
  const UniqueFd held =
      TRY(states.hold(StateStore::Hold::exclusive, control.deadline()));
  TRY(collect_devices(control, states, options, orphans));
  const auto devices = device_ids();
  for (const uint32_t dev_id : states.ids()) {
    if (std::ranges::binary_search(devices, dev_id)) continue;
    Orphan& orphan =
        orphans.emplace_back(Orphan{.kind = Orphan::Kind::state,
                                    .dev_id = dev_id,
                                    .cleared = true,
                                    .why = "its device is not there"});
    if (options.dry_run) continue;
    if (auto done = forget(states, dev_id); !done) {
      orphan.cleared = false;
      orphan.why = done.error().message();
    }
  }
  collect_maps(control, states, options.dry_run, orphans);
  for (const std::string& name : states.other_files()) {
    const auto writer = writer_of(name);
    const auto its = device_of(name);
    // Left by a device whose state is gone.
    const bool stray =
        its && !states.load(*its) && !std::ranges::binary_search(devices, *its);
    if (!stray && (!writer || pidfd_of(*writer).valid())) continue;
    orphans.push_back({.kind = Orphan::Kind::temporary,
                       .file = name,
                       .cleared = true,
                       .why = stray ? "its device is not there"
                                    : "its writer was interrupted"});
    if (!options.dry_run) TRY(states.remove_file(name));
  }
  return orphans;
}

namespace {

std::vector<uint32_t> left_by(pid_t server, const StateStore& states,
                              const std::vector<uint32_t>& before) {
  auto ids = device_ids();
  const auto open = open_devices();
  std::erase_if(ids, [&](uint32_t dev_id) {
    const auto state = states.load(dev_id);
    return std::ranges::binary_search(before, dev_id) ||
           open.contains(dev_id) ||
           (state && !state->instance.starts_with(fmt("{}-", server)));
  });
  return ids;
}

}  // namespace

Result<std::vector<uint32_t>> clear_after(Control& control,
                                          const StateStore& states,
                                          pid_t server,
                                          const std::vector<uint32_t>& before) {
  for (const std::string& name : states.other_files())
    if (writer_of(name) == server) TRY(states.remove_file(name));
  std::vector<uint32_t> suspects = left_by(server, states, before);
  if (suspects.empty()) return suspects;
  // Without a state it may be another tool's, which opens it presently.
  const UniqueFd held =
      TRY(states.hold(StateStore::Hold::exclusive, control.deadline()));
  std::this_thread::sleep_for(kSecondLook);
  const auto still = left_by(server, states, before);
  std::erase_if(suspects, [&](uint32_t dev_id) {
    return !std::ranges::binary_search(still, dev_id);
  });
  for (const uint32_t dev_id : suspects) {
    // Nobody was told of it. Who has it open is the kernel, which looks for
    // partitions, and waits for the server.
    auto removed =
        remove_device(control, states, dev_id, Removal::waits, {.force = true});
    if (!removed && removed.error().code() != ENODEV)
      return std::unexpected(std::move(removed).error());
  }
  return suspects;
}

}  // namespace ublk
