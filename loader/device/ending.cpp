// SPDX-License-Identifier: MIT
//
// How a server's devices end: each by itself, or all by a signal.

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <set>
#include <thread>

#include "device/lifecycle.h"
#include "device/loaded_clone.h"
#include "device/users.h"
#include "device/workplace.h"
#include "server/track.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// How often a server that is to end looks whether its devices are free.
constexpr std::chrono::milliseconds kFreePeriod = 500ms;

// The service manager of a host.
constexpr uint32_t kProcessOne = 1;

// Somebody else may be at it just now, and faster.
Result<void> unless_gone(Result<void> done) {
  if (!done && done.error().code() == ENODEV) return {};
  return done;
}

// What was written goes to the track file, unless the device's program goes on
// with it.
Result<void> save_track(Workplace& place, const Served& device) {
  const auto track = device.server->target().track;
  if (!track) return {};
  const auto state = place.states.load(device.dev_id);
  if (state && state->track_maps.bits) {
    const auto info = place.control.info(device.dev_id);
    if (info ? info->state != UBLK_S_DEV_DEAD : info.error().code() != ENODEV)
      return {};
  }
  return track->save();
}

// Waits for the queues of a device, and lets go of it.
Result<void> end_queues(Workplace& place, Served& device) {
  auto joined = device.server->join();
  auto saved = save_track(place, device);
  device.server.reset();
  TRY(std::move(joined));
  return saved;
}

// A queue has ended. Somebody has stopped the device, and also deletes it; or
// has quiesced it, for another server; or the queue has failed, then the others
// must not go on without it.
Result<void> let_go(Workplace& place, Served& device) {
  if (device.server->failed())
    if (auto info = place.control.info(device.dev_id);
        info && info->state == UBLK_S_DEV_LIVE)
      (void)place.control.stop(device.dev_id);
  const uint32_t dev_id = device.dev_id;
  TRY(end_queues(place, device));
  // All that its map had is saved, whoever has stopped it.
  const auto state = place.states.load(dev_id);
  const auto info = place.control.info(dev_id);
  if (state && state->clone_maps.bits && info && info->state == UBLK_S_DEV_DEAD)
    (void)leave_loaded_clones(dev_id, state->clone_maps);
  return {};
}

// What a signal makes of a device.
enum class Left {
  ended,   // it is not ours any more
  stays,   // somebody uses it
  orphan,  // all that can be done is to end: it will wait for a successor
};

Result<void> stop_if_free(Workplace& place, const ublksrv_ctrl_dev_info& info) {
  if (info.flags & UBLK_F_SAFE_STOP_DEV)
    return place.control.stop_unused(info.dev_id);
  if (is_open_below(place.dev_dir.get(), place.proc_dir.get(), info.dev_id) ||
      is_claimed(place.dev_dir.get(), info.dev_id))
    return fail_sys(EBUSY, "{}", device_name(info.dev_id));
  return place.control.stop(info.dev_id);
}

// One that ends with its server.
Result<Left> delete_it(Workplace& place, Served& device,
                       const ublksrv_ctrl_dev_info& info, bool insist) {
  auto stopped = unless_gone(insist || info.state == UBLK_S_DEV_DEAD
                                 ? place.control.stop(device.dev_id)
                                 : stop_if_free(place, info));
  if (!stopped && stopped.error().code() == EBUSY) return Left::stays;
  // The driver stops it as soon as this process has ended.
  if (!stopped && insist) return Left::orphan;
  TRY(std::move(stopped));
  auto joined = end_queues(place, device);
  // Whoever has it is not waited for.
  TRY(unless_gone(insist ? place.control.begin_remove(device.dev_id)
                         : place.control.remove(device.dev_id)));
  TRY(place.states.remove(device.dev_id, device.instance));
  TRY(std::move(joined));
  return Left::ended;
}

// What has been begun is done, so nothing is lost on the way to a successor.
// A driver that cannot do that, or fails I/O that should wait, does as if the
// server had been killed.
Result<Left> leave_it(Workplace& place, Served& device,
                      const ublksrv_ctrl_dev_info& info, bool insist) {
  if (insist || !check_quiesce(info)) return Left::orphan;
  if (info.state == UBLK_S_DEV_LIVE)
    TRY(unless_gone(place.control.quiesce(device.dev_id)));
  QuiesceAgain again(place.control, info);
  const auto until = steady_clock::now() + place.control.deadline();
  while (!device.server->all_ended()) {
    if (steady_clock::now() > until) return Left::orphan;
    std::this_thread::sleep_for(kRetryPeriod);
    TRY(again.tick());
  }
  TRY(end_queues(place, device));
  return Left::ended;
}

Result<Left> leave(Workplace& place, Served& device, bool insist) {
  const auto info = place.control.info(device.dev_id);
  if (!info && info.error().code() == ENODEV) {
    TRY(let_go(place, device));
    return Left::ended;
  }
  if (!info) return std::unexpected(info.error());
  return info->flags & UBLK_F_USER_RECOVERY
             ? leave_it(place, device, *info, insist)
             : delete_it(place, device, *info, insist);
}

// Devices of one process: one's trouble is not the others'.
class Outcome {
 public:
  explicit Outcome(const ServeHooks& hooks) : hooks_(hooks) {}

  void add(uint32_t dev_id, Error error) {
    if (!error.line().starts_with(device_name(dev_id)))
      error = std::move(error).in(device_name(dev_id));
    if (first_)
      hooks_.trouble(error);
    else
      first_ = std::move(error);
  }
  void add(uint32_t dev_id, Result<void> done) {
    if (!done) add(dev_id, std::move(done).error());
  }
  Result<void> get() && {
    if (first_) return std::unexpected(std::move(*first_));
    return {};
  }

 private:
  const ServeHooks& hooks_;
  std::optional<Error> first_;
};

class ServeLoop {
 public:
  ServeLoop(Workplace& place, std::vector<Served> devices,
            const ServeHooks& hooks)
      : place_(place),
        devices_(std::move(devices)),
        hooks_(hooks),
        outcome_(hooks) {}

  Result<void> run();

 private:
  void drop(size_t i) {
    devices_.erase(devices_.begin() + static_cast<ptrdiff_t>(i));
  }
  Result<std::vector<pollfd>> wait();
  void count_signals();
  void end_those_that_have_ended(const std::vector<pollfd>& fds);
  void leave_all();
  void orphan(Served& device) { (void)device.server.release(); }

  Workplace& place_;
  std::vector<Served> devices_;
  const ServeHooks& hooks_;
  Outcome outcome_;
  UniqueFd signals_;
  unsigned nr_signals_ = 0;
  std::set<uint32_t> said_;
};

// The signals, then the end of each device, in this order.
Result<std::vector<pollfd>> ServeLoop::wait() {
  std::vector<pollfd> fds;
  fds.push_back({.fd = signals_.get(), .events = POLLIN, .revents = 0});
  for (const Served& device : devices_)
    fds.push_back(
        {.fd = device.server->ended_fd(), .events = POLLIN, .revents = 0});
  const int time = nr_signals_ ? static_cast<int>(kFreePeriod.count()) : -1;
  if (::poll(fds.data(), fds.size(), time) < 0) {
    if (errno != EINTR) return fail_sys(errno, "poll");
    for (pollfd& fd : fds) fd.revents = 0;
  }
  return fds;
}

// A service manager says everything twice: systemd sends another SIGTERM to
// what is left of a unit after TimeoutStopSec. By that nobody insists.
void ServeLoop::count_signals() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info))
    if (info.ssi_pid != kProcessOne || !nr_signals_) nr_signals_++;
}

void ServeLoop::end_those_that_have_ended(const std::vector<pollfd>& fds) {
  for (size_t i = devices_.size(); i-- > 0;) {
    if (!fds[i + 1].revents) continue;
    outcome_.add(devices_[i].dev_id, let_go(place_, devices_[i]));
    drop(i);
  }
}

void ServeLoop::leave_all() {
  const bool insist = nr_signals_ > 1;
  size_t orphans = 0;
  for (size_t i = devices_.size(); i-- > 0;) {
    Served& device = devices_[i];
    auto left = leave(place_, device, insist);
    if (!left) {
      outcome_.add(device.dev_id, std::move(left).error());
      // Unless it has not come so far.
      if (device.server) orphan(device);
      drop(i);
    } else if (*left == Left::ended) {
      drop(i);
    } else if (*left == Left::orphan) {
      orphans++;
    } else if (said_.insert(device.dev_id).second) {
      hooks_.trouble(Error::plain(
          EBUSY, fmt("{}: is in use: it is served until it is free, or until "
                     "a second SIGTERM",
                     device_name(device.dev_id))));
    }
  }
  if (orphans < devices_.size()) return;
  for (Served& device : devices_) orphan(device);
  devices_.clear();
}

Result<void> ServeLoop::run() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  signals_ = UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  std::optional<Error> deaf;
  if (!signals_.valid()) deaf = Error::sys(errno, "signalfd");
  place_.control.keep_nothing();
  while (!devices_.empty()) {
    place_.control.rest();
    if (!deaf) {
      auto fds = wait();
      if (fds) {
        if ((*fds)[0].revents) count_signals();
        end_those_that_have_ended(*fds);
      } else {
        deaf = std::move(fds).error();
      }
    }
    if (deaf) nr_signals_ = 2;
    if (nr_signals_) leave_all();
  }
  if (deaf) return std::unexpected(std::move(*deaf));
  return std::move(outcome_).get();
}

}  // namespace

Result<void> serve_to_the_end(Workplace& place, std::vector<Served> devices,
                              const ServeHooks& hooks) {
  return ServeLoop(place, std::move(devices), hooks).run();
}

}  // namespace ublk
