// SPDX-License-Identifier: MIT
#include "device/gc.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <thread>

#include "device/device.h"
#include "device/lifecycle.h"
#include "sys/process.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// A device that is between two states for longer than that is not any more.
constexpr auto kSecondLook = 500ms;

// Whether a process has the server's side of the device open.
bool is_open(uint32_t dev_id) {
  const std::string path = char_path(dev_id);
  std::error_code ec;
  for (const auto& process : fs::directory_iterator("/proc", ec)) {
    std::error_code gone;
    fs::directory_iterator it(process.path() / "fd", gone), end;
    for (; !gone && it != end; it.increment(gone))
      if (fs::read_symlink(it->path(), gone) == path && !gone) return true;
  }
  return false;
}

// What may be an orphan; nothing if it is not.
std::optional<Orphan> look_at(const ublksrv_ctrl_dev_info& info,
                              const StateStore& states, bool waiting) {
  Orphan orphan{.dev_id = info.dev_id};
  const bool served = pidfd_of(info.ublksrv_pid).valid() &&
                      !threads_of(info.ublksrv_pid).empty();
  switch (info.state) {
    case UBLK_S_DEV_LIVE:
      if (served) return std::nullopt;
      orphan.why = "its server has gone just now";
      return orphan;
    case UBLK_S_DEV_DEAD:
      if (is_open(info.dev_id)) return std::nullopt;
      orphan.why = "is dead and nobody has it";
      orphan.cleared = true;
      return orphan;
    default:
      if (is_open(info.dev_id)) return std::nullopt;
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
  for (const uint32_t dev_id : device_ids()) {
    const auto info = control.info(dev_id);
    if (info && look_at(*info, states, options.waiting))
      suspects.push_back(dev_id);
  }
  // Servers come and go: what is an orphan stays one.
  if (!suspects.empty()) std::this_thread::sleep_for(kSecondLook);
  for (const uint32_t dev_id : suspects) {
    const auto info = control.info(dev_id);
    if (!info) continue;
    auto orphan = look_at(*info, states, options.waiting);
    if (!orphan) continue;
    if (orphan->cleared && !options.dry_run) {
      auto removed = remove_device(control, states, dev_id);
      if (!removed && removed.error().code() != ENODEV) return removed;
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

}  // namespace

Result<std::vector<Orphan>> collect_garbage(Control& control,
                                            const StateStore& states,
                                            const GcOptions& options) {
  std::vector<Orphan> orphans;
  const UniqueFd held = TRY(states.hold(StateStore::Hold::exclusive));
  TRY(collect_devices(control, states, options, orphans));
  const auto devices = device_ids();
  for (const uint32_t dev_id : states.ids()) {
    if (std::ranges::binary_search(devices, dev_id)) continue;
    orphans.push_back({.kind = Orphan::Kind::state,
                       .dev_id = dev_id,
                       .cleared = true,
                       .why = "its device is not there"});
    if (!options.dry_run) TRY(states.remove(dev_id, ""));
  }
  for (const std::string& name : states.other_files()) {
    const auto writer = writer_of(name);
    if (!writer || pidfd_of(*writer).valid()) continue;
    orphans.push_back({.kind = Orphan::Kind::temporary,
                       .file = name,
                       .cleared = true,
                       .why = "its writer was interrupted"});
    if (!options.dry_run) TRY(states.remove_file(name));
  }
  return orphans;
}

namespace {

std::vector<uint32_t> left_by(pid_t server, const StateStore& states,
                              const std::vector<uint32_t>& before) {
  auto ids = device_ids();
  std::erase_if(ids, [&](uint32_t dev_id) {
    const auto state = states.load(dev_id);
    return std::ranges::binary_search(before, dev_id) || is_open(dev_id) ||
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
  const UniqueFd held = TRY(states.hold(StateStore::Hold::exclusive));
  std::this_thread::sleep_for(kSecondLook);
  const auto still = left_by(server, states, before);
  std::erase_if(suspects, [&](uint32_t dev_id) {
    return !std::ranges::binary_search(still, dev_id);
  });
  for (const uint32_t dev_id : suspects) {
    auto removed = remove_device(control, states, dev_id);
    if (!removed && removed.error().code() != ENODEV)
      return std::unexpected(std::move(removed).error());
  }
  return suspects;
}

}  // namespace ublk
