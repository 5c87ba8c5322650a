// SPDX-License-Identifier: MIT
//
// How devices are stopped and deleted.

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>
#include <sstream>
#include <thread>

#include "device/bpf.h"
#include "device/clone.h"
#include "device/lifecycle.h"
#include "device/loaded_clone.h"
#include "device/pins.h"
#include "device/server_process.h"
#include "device/users.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kWarning = 1s;
// More than a drain takes that has nothing to wait for, and how long what one
// has found is good for.
constexpr std::chrono::milliseconds kDrain = 1s;
constexpr std::chrono::milliseconds kDrainAgain = 5s;
constexpr std::chrono::milliseconds kLetGoPeriod = 50ms;

// Words of a file of /sys/block/ublkbN.
std::vector<std::string> words_of(uint32_t dev_id, const char* file) {
  std::istringstream words(
      read_text(fmt("/sys/block/ublkb{}/{}", dev_id, file)).value_or(""));
  std::vector<std::string> all;
  for (std::string word; words >> word;) all.push_back(word);
  return all;
}

// How many requests of a block device have completed: reads, writes, discards
// and flushes. The other numbers of `stat` change by themselves.
std::string completions(uint32_t dev_id) {
  const auto words = words_of(dev_id, "stat");
  std::string all;
  for (const size_t i : {0, 4, 11, 15})
    if (i < words.size()) all += words[i] + " ";
  return all;
}

bool has_requests(uint32_t dev_id) {
  return std::ranges::any_of(words_of(dev_id, "inflight"),
                             [](const auto& count) { return count != "0"; });
}

// Whose I/O it is that does not end.
enum class Stuck {
  servers,
  programs,  // or that of a program that was replaced
  unknown,   // the kernel cannot tell
};

// What the program has planned is I/O of the kernel's, and ends with a drain.
Stuck whose_is_stuck(uint32_t dev_id) {
  auto control =
      Control::open({.deadline = kDrain});  // the caller's is waiting
  if (!control) return Stuck::servers;
  const auto info = control->bpf_info(dev_id);
  if (!info || (!info->prog_id && !info->nr_retiring)) return Stuck::servers;
  if (!info->prog_id || bpf_version(*info) < 2) return Stuck::unknown;
  const auto drained = control->drain_bpf(dev_id);
  if (drained) return Stuck::servers;
  switch (drained.error().code()) {
    case ETIMEDOUT:
      return Stuck::programs;
    case ENODEV:  // it has just gone
    case ENOENT:
      return Stuck::servers;
    default:
      return Stuck::unknown;
  }
}

// Whether a device has its disk still, which programs serve.
enum class Disk { there, gone };

// Notices a server that completes no request of a device that is to be stopped.
// What has no other device is killed, others only by force. None is killed for
// I/O of the device's program, which it has nothing to do with: it may be at
// work for its other devices, and nothing would end sooner without it.
class Watchdog {
 public:
  Watchdog(uint32_t dev_id, const ServerProcess* server,
           const EndOptions& options, Disk disk)
      : dev_id_(dev_id), server_(server), options_(options), disk_(disk) {}

  // Before anything is done to a device that nobody has: refuses what would not
  // end, as its server is not to be killed. Kills nobody.
  Result<void> look() {
    if (options_.force || !server_) return {};
    while (has_requests(dev_id_) && !server_->others(dev_id_).empty()) {
      if (!users_of(dev_id_).empty()) return {};  // refused for that
      may_kill_ = false;
      const Meanwhile what = tick();
      may_kill_ = true;
      if (what == Meanwhile::give_up) return std::unexpected(*refusal_);
      if (moved_ || stuck_ != Stuck::servers) return {};
      std::this_thread::sleep_for(kTickPeriod);
    }
    return {};
  }

  Meanwhile tick() {
    auto stat = completions(dev_id_);
    const auto now = steady_clock::now();
    if (stat != stat_) {
      moved_ = !stat_.empty();
      stat_ = std::move(stat);
      since_ = now;
      return Meanwhile::moves;
    }
    if (!server_ || now - since_ < std::min(kWarning, options_.patience))
      return Meanwhile::waits;
    const bool over = now - since_ > options_.patience;
    if (!over && (!options_.force || warned_)) return Meanwhile::waits;
    if (killed_ || is_programs()) return Meanwhile::waits;
    const auto others = server_->others(dev_id_);
    if (!others.empty() && !options_.force) {
      refusal_ = refusal(others);
      return Meanwhile::give_up;
    }
    if (!others.empty() && !warned_) warn(others);
    if (over && may_kill_) {
      server_->kill();
      killed_ = true;
    }
    return Meanwhile::waits;
  }

  // What has been refused, in place of the error of a command that was given
  // up.
  Result<void> judge(Result<void> done) {
    if (!done && done.error().code() == ECANCELED && refusal_)
      return std::unexpected(*refusal_);
    if (done || done.error().code() != ETIMEDOUT || !is_programs()) return done;
    return std::unexpected(
        Error::plain(
            ETIMEDOUT,
            fmt("{}; {} of its program to its files that does not end",
                done.error().message(),
                stuck_ == Stuck::programs ? "it is I/O" : "it may be I/O"))
            .hint(fmt("it is stopped when that has ended, and ublk-bpf gc "
                      "clears what is left; its server{} goes on",
                      server_ ? fmt(", process {},", server_->pid()) : "")));
  }

 private:
  // Asks again what is not certain any more.
  bool is_programs() {
    if (disk_ == Disk::gone) return false;
    const auto now = steady_clock::now();
    if (stuck_ != Stuck::servers && now - looked_ < kDrainAgain) return true;
    stuck_ = whose_is_stuck(dev_id_);
    looked_ = steady_clock::now();
    return stuck_ != Stuck::servers;
  }
  std::string stuck() const {
    return fmt("{}: its server, process {}, has completed nothing for {} s",
               device_name(dev_id_), server_->pid(),
               std::chrono::duration<double>(options_.patience).count());
  }
  Error refusal(const std::vector<uint32_t>& others) const {
    return Error::plain(EBUSY,
                        fmt("{}, and serves {} too", stuck(), names_of(others)))
        .hint("--force kills it, with all of them");
  }
  void warn(const std::vector<uint32_t>& others) {
    warned_ = true;
    if (options_.warn)
      options_.warn(Error::plain(
          EBUSY, fmt("{}: its server, process {}, completes nothing: it will "
                     "be killed after {} s of that, and with it {}",
                     device_name(dev_id_), server_->pid(),
                     std::chrono::duration<double>(options_.patience).count(),
                     names_of(others))));
  }

  uint32_t dev_id_;
  const ServerProcess* server_;
  const EndOptions& options_;
  std::string stat_;
  bool moved_ = false;
  bool warned_ = false;
  bool may_kill_ = true;
  bool killed_ = false;
  Disk disk_;
  Stuck stuck_ = Stuck::servers;
  steady_clock::time_point looked_{};
  std::optional<Error> refusal_;
  steady_clock::time_point since_ = steady_clock::now();
};

// With `word`, a command's name, as its hint.
Result<void> end(Control& control, const ublksrv_ctrl_dev_info& info,
                 const ServerProcess* server, const EndOptions& options,
                 const char* word) {
  Watchdog watch(info.dev_id, server, options, Disk::there);
  const ControlTick tick = [&] { return watch.tick(); };
  if (options.force || info.state == UBLK_S_DEV_DEAD)
    return watch.judge(control.stop(info.dev_id, tick));
  TRY(watch.look());
  auto stopped = stop_if_unused(
      control, info, tick,
      fmt("ublk-bpf {} -n {} --force does it regardless", word, info.dev_id));
  // There is no disk any more: somebody else was faster.
  if (!stopped && stopped.error().code() == ENODEV)
    stopped = control.stop(info.dev_id, tick);
  return watch.judge(std::move(stopped));
}

Result<void> stop(Control& control, uint32_t dev_id, bool driver_checks,
                  const EndOptions& options) {
  const auto info = TRY(control.info(dev_id));
  if (info.state == UBLK_S_DEV_DEAD) return {};
  const auto server = ServerProcess::find(info);
  if (driver_checks && !(info.flags & UBLK_F_SAFE_STOP_DEV))
    return fail(EOPNOTSUPP,
                "{}: the driver cannot tell whether it is in use: it has no "
                "UBLK_F_SAFE_STOP_DEV",
                device_name(dev_id));
  TRY(end(control, info, server ? &*server : nullptr, options, "stop"));
  if (server) (void)wait_for_end(*server, dev_id, options.patience);
  return {};
}

// The driver starts a device that is being deleted, if an add had come so far,
// and the deletion would wait for its server. Such a device has no ublkcN any
// more: another one that has got its number is not meant.
void stop_if_started(uint32_t dev_id, const ControlOptions& wait) {
  auto control = Control::open(wait);  // the caller's is waiting
  if (!control) return;
  const auto info = control->info(dev_id);
  if (info && info->state == UBLK_S_DEV_LIVE &&
      !std::ranges::binary_search(device_ids(), dev_id))
    (void)stop(*control, dev_id, false, {.force = true});
}

// Whether the server has closed the device's /dev/ublkcN within the deadline.
bool lets_go(uint32_t dev_id, const ServerProcess& server,
             std::chrono::milliseconds deadline, const ControlTick& tick) {
  const auto until = steady_clock::now() + deadline;
  auto last_tick = steady_clock::now();
  while (steady_clock::now() < until) {
    if (server.wait_gone(kLetGoPeriod)) return true;
    if (!std::ranges::binary_search(server.devices(), dev_id)) return true;
    if (steady_clock::now() - last_tick < kTickPeriod) continue;
    last_tick = steady_clock::now();
    tick();
  }
  return false;
}

// The server is waited for, but not whoever has the block device: the driver
// keeps its number until he has closed it.
Result<void> remove_from_under(Control& control, uint32_t dev_id,
                               const ServerProcess* server,
                               const ControlTick& tick) {
  TRY(control.begin_remove(dev_id));
  if (server && !lets_go(dev_id, *server, control.deadline(), tick))
    return fail(ETIMEDOUT,
                "{}: is deleted when its server, process {}, closes {}, which "
                "it has not done for {} s",
                device_name(dev_id), server->pid(), char_path(dev_id),
                std::chrono::duration<double>(control.deadline()).count());
  const auto until = steady_clock::now() + kLook;
  while (control.info(dev_id) && steady_clock::now() < until)
    std::this_thread::sleep_for(kLetGoPeriod);
  return {};
}

// What the map of a clone says goes to its layer, and what was tracked to its
// file.
Result<void> write_out(const StateStore& states, const DeviceState& state,
                       const EndOptions& options) {
  auto done = write_map_out(states, state);
  if (done) return done;
  if (!state.target.track.empty()) {
    if (options.warn)
      options.warn(std::move(done).error().in(
          fmt("{}: all counts as changed", device_name(state.dev_id))));
    return {};
  }
  // Its program may be gone already, and the map with the end of this command.
  if (state.clone_maps.bits)
    if (auto kept = keep_map_file(states, state); !kept && options.warn)
      options.warn(Error(kept.error())
                       .in(fmt("{}: its map could not be kept either",
                               device_name(state.dev_id))));
  auto error = std::move(done).error().in(
      fmt("{}: its map could not be written to its layer",
          device_name(state.dev_id)));
  if (!options.force)
    return std::unexpected(std::move(error).hint(
        "--force deletes it, and loses what was not flushed"));
  if (options.warn) options.warn(error);
  return {};
}

// Of a clone, that no command is changing its layers meanwhile, which ends with
// another state than was loaded before. Not with --force.
Result<UniqueFd> hold_layers(
    const StateStore& states, uint32_t dev_id, bool force,
    std::chrono::milliseconds wait = StateStore::kHoldWait) {
  const auto state = states.load(dev_id);
  if (force || !state || !is_clone(state->target)) return UniqueFd();
  return TRY_IN(device_name(dev_id), states.hold_device(dev_id, wait));
}

// Of a clone that is stopped: what its program, which others have attached, has
// of it. Who needs its maps still has them open.
void leave_program(const DeviceState& state, const EndOptions& options) {
  if (!is_clone(state.target)) return;
  if (auto left = leave_loaded_clones(state.dev_id); !left && options.warn)
    options.warn(std::move(left).error().in(device_name(state.dev_id)));
}

// All but the wait for its server.
Result<void> remove_one(Control& control, const StateStore& states,
                        uint32_t dev_id, Removal how, const EndOptions& options,
                        KnownServers& servers) {
  const auto info = control.info(dev_id);
  if (!info) {
    // What an unclean end has left of it.
    if (info.error().code() == ENODEV) TRY(forget(states, dev_id));
    return std::unexpected(info.error());
  }
  const UniqueFd held =
      TRY(hold_layers(states, dev_id, options.force, control.deadline()));
  const auto state = states.load(dev_id);
  const std::string instance = state ? state->instance : "";
  const Pins pins = state ? state->pins() : Pins{};
  const ServerProcess* server = servers.find(*info);
  // It would go with the clone's program, which serves to the end.
  const auto kept = state ? hold_maps(*state) : std::vector<UniqueFd>();
  TRY(end(control, *info, server, options, "del"));
  // Without one nobody else does it. With one it is done when that has ended.
  if (state && !server) TRY(write_out(states, *state, options));
  // Before its number can be another's.
  if (state) leave_program(*state, options);
  Watchdog watch(dev_id, server, options, Disk::gone);
  const ControlTick tick = [&] {
    stop_if_started(dev_id, {.deadline = control.deadline()});
    return watch.tick();
  };
  auto removed = how == Removal::asynchronous ? control.begin_remove(dev_id)
                 : options.force
                     ? remove_from_under(control, dev_id, server, tick)
                     : watch.judge(control.remove(dev_id, tick));
  // The server may have been told to end too, and have deleted it itself.
  if (!removed && removed.error().code() != ENODEV) return removed;
  remove_pins(pins);
  if (state && (server || !kept.empty()) && how != Removal::asynchronous)
    TRY(write_out(states, *state, options));
  return states.remove(dev_id, instance);
}

}  // namespace

Result<void> forget(const StateStore& states, uint32_t dev_id) {
  const UniqueFd held = TRY(hold_layers(states, dev_id, false));
  if (const auto state = states.load(dev_id)) {
    TRY_IN(device_name(dev_id), write_map_out(states, *state));
    // Its number may be another's by now.
    (void)leave_loaded_clones(dev_id, state->clone_maps);
    remove_pins(state->pins());
  }
  return states.remove(dev_id, "");
}

Result<void> stop_device(Control& control, const StateStore& states,
                         uint32_t dev_id, bool driver_checks,
                         const EndOptions& options) {
  const UniqueFd held =
      TRY(hold_layers(states, dev_id, options.force, control.deadline()));
  const auto state = states.load(dev_id);
  // It would go with the clone's program.
  const auto kept = state ? hold_maps(*state) : std::vector<UniqueFd>();
  TRY(stop(control, dev_id, driver_checks, options));
  // Without a server nobody else does it.
  if (!kept.empty()) TRY(write_out(states, *state, options));
  if (state) leave_program(*state, options);
  return {};
}

Result<void> remove_device(Control& control, const StateStore& states,
                           uint32_t dev_id, Removal how,
                           const EndOptions& options) {
  auto removed = remove_devices(control, states, {dev_id}, how, options);
  if (removed.failed.empty()) return {};
  return std::unexpected(std::move(removed.failed.front().second));
}

Removed remove_devices(Control& control, const StateStore& states,
                       const std::vector<uint32_t>& dev_ids, Removal how,
                       const EndOptions& options) {
  Removed removed;
  KnownServers servers;
  // What one of them has in use is free when that one has been deleted.
  std::vector<uint32_t> left = dev_ids;
  std::vector<std::pair<uint32_t, Error>> busy;
  for (bool again = true; again && !left.empty();) {
    const size_t before = removed.deleted.size();
    const bool first = busy.empty();
    busy.clear();
    for (const uint32_t dev_id : left) {
      auto done = remove_one(control, states, dev_id, how, options, servers);
      // One that was there in an earlier pass has been deleted since.
      if (done || (!first && done.error().code() == ENODEV))
        removed.deleted.push_back(dev_id);
      else
        (done.error().code() == EBUSY ? busy : removed.failed)
            .emplace_back(dev_id, std::move(done).error());
    }
    again = removed.deleted.size() > before;
    left.clear();
    for (const auto& [dev_id, error] : busy) left.push_back(dev_id);
  }
  std::ranges::move(busy, std::back_inserter(removed.failed));
  if (how == Removal::asynchronous) return removed;
  for (const auto& [pid, server] : servers.all()) {
    // Those of it that stay are its others.
    const auto last = std::ranges::find_if(
        removed.deleted,
        [&](uint32_t dev_id) { return server && server->had(dev_id); });
    // A busy machine takes its time over it; nothing is lost meanwhile.
    if (last == removed.deleted.end() ||
        wait_for_end(*server, *last, control.deadline()))
      continue;
    removed.failed.emplace_back(
        *last,
        Error::plain(EBUSY, fmt("{}: is deleted, but its server, process {}, "
                                "does not end",
                                device_name(*last), pid)));
  }
  return removed;
}

}  // namespace ublk
