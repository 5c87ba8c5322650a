// SPDX-License-Identifier: MIT
#include "device/workplace.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>

#include "sys/process.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kNodeWait = 5s;
constexpr auto kRetryPeriod = 5ms;

// udev, where there is no devtmpfs, makes the node some time after the driver
// has announced it. And the driver lets the next server in only when the
// last reference to the file is gone.
Result<UniqueFd> open_char(const UniqueFd& dev_dir, uint32_t dev_id) {
  const auto until = steady_clock::now() + kNodeWait;
  for (;;) {
    auto fd = UniqueFd::open_at(dev_dir.get(), fmt("ublkc{}", dev_id), O_RDWR);
    const int code = fd ? 0 : fd.error().code();
    if ((code != ENOENT && code != EBUSY) || steady_clock::now() > until)
      return fd;
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

Result<std::vector<cpu_set_t>> queue_cpus(
    Control& control, const ublksrv_ctrl_dev_info& info,
    const std::map<uint16_t, std::vector<uint16_t>>& affinity) {
  std::vector<cpu_set_t> cpus;
  for (uint16_t q = 0; q < info.nr_hw_queues; q++) {
    const auto wanted = affinity.find(q);
    if (wanted == affinity.end()) {
      cpus.push_back(TRY(control.queue_affinity(info.dev_id, q)));
      continue;
    }
    CPU_ZERO(&cpus.emplace_back());
    for (const uint16_t cpu : wanted->second) CPU_SET(cpu, &cpus.back());
  }
  return cpus;
}

// Somebody else may be at it just now, and faster.
Result<void> unless_gone(Result<void> done) {
  if (!done && done.error().code() == ENODEV) return {};
  return done;
}

// After a signal: the device ends with its server.
Result<void> take_down(Workplace& place, Served& device) {
  TRY(unless_gone(place.control.stop(device.dev_id)));
  auto joined = device.server->join();
  device.server.reset();
  TRY(unless_gone(place.control.remove(device.dev_id)));
  TRY(place.states.remove(device.dev_id, device.instance));
  return joined;
}

// A queue has ended. Somebody has stopped the device, and also deletes it; or
// has quiesced it, for another server; or the queue has failed, then the others
// must not go on without it.
Result<void> let_go(Workplace& place, Served& device) {
  if (device.server->failed())
    // That it has failed is what join() says below; a device that cannot be
    // stopped either is gc's.
    if (auto info = place.control.info(device.dev_id);
        info && info->state == UBLK_S_DEV_LIVE)
      (void)place.control.stop(device.dev_id);
  auto joined = device.server->join();
  device.server.reset();
  return joined;
}

// The signals, then the end of each device, in this order.
std::vector<pollfd> to_wait_for(const UniqueFd& signals,
                                const std::vector<Served>& devices) {
  std::vector<pollfd> fds;
  fds.push_back({.fd = signals.get(), .events = POLLIN, .revents = 0});
  for (const Served& device : devices)
    fds.push_back(
        {.fd = device.server->ended_fd(), .events = POLLIN, .revents = 0});
  return fds;
}

// Devices of one process: one's trouble is not the others'.
class Outcome {
 public:
  explicit Outcome(const ServeHooks& hooks) : hooks_(hooks) {}

  void add(uint32_t dev_id, Result<void> done) {
    if (done) return;
    Error error = std::move(done).error();
    if (!error.line().starts_with(device_name(dev_id)))
      error = std::move(error).in(device_name(dev_id));
    if (first_)
      hooks_.trouble(error);
    else
      first_ = std::move(error);
  }
  Result<void> get() && {
    if (first_) return std::unexpected(std::move(*first_));
    return {};
  }

 private:
  const ServeHooks& hooks_;
  std::optional<Error> first_;
};

}  // namespace

Result<Workplace> Workplace::open() {
  // A device has three and its files.
  allow_many_files();
  Control control = TRY(Control::open());
  StateStore states = TRY(StateStore::open());
  UniqueFd dev_dir = TRY(UniqueFd::open("/dev", O_PATH | O_DIRECTORY));
  return Workplace{std::move(control), std::move(states), std::move(dev_dir)};
}

void settle(const ServeHooks& hooks) {
  if (auto left = leave_mounts(); !left) hooks.trouble(left.error());
  if (auto became = become_io_server(); !became) hooks.trouble(became.error());
}

Result<void> wait_for_node(const Workplace& place, uint32_t dev_id) {
  const std::string name = fmt("ublkc{}", dev_id);
  const auto until = steady_clock::now() + kNodeWait;
  while (
      ::faccessat(place.dev_dir.get(), name.c_str(), R_OK | W_OK, AT_EACCESS)) {
    if (steady_clock::now() > until)
      return std::unexpected(
          Error::sys(EACCES,
                     fmt("{}: {}", device_name(dev_id), char_path(dev_id)))
              .hint(fmt("packaging/60-ublk-bpf.rules for udev gives it to its "
                        "owner; root can: ublk-bpf own -n {}, or del -n {}",
                        dev_id, dev_id)));
    std::this_thread::sleep_for(kRetryPeriod);
  }
  return {};
}

Result<std::unique_ptr<Server>> make_server(
    Workplace& place, Target target, const ublksrv_ctrl_dev_info& info,
    const std::map<uint16_t, std::vector<uint16_t>>& affinity) {
  UniqueFd char_fd = TRY(open_char(place.dev_dir, info.dev_id));
  const auto cpus = TRY(queue_cpus(place.control, info, affinity));
  return Server::create(std::move(target), std::move(char_fd), info, cpus);
}

Result<void> serve_to_the_end(Workplace& place, std::vector<Served> devices,
                              const ServeHooks& hooks) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  const UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  std::optional<Error> deaf;
  if (!signal_fd.valid()) deaf = Error::sys(errno, "signalfd");
  Outcome outcome(hooks);
  while (!devices.empty()) {
    auto fds = to_wait_for(signal_fd, devices);
    if (!deaf && ::poll(fds.data(), fds.size(), -1) < 0) {
      if (errno == EINTR) continue;
      deaf = Error::sys(errno, "poll");
    }
    if (deaf || fds[0].revents) {
      for (Served& device : devices)
        outcome.add(device.dev_id, take_down(place, device));
      break;
    }
    for (size_t i = devices.size(); i-- > 0;) {
      if (!fds[i + 1].revents) continue;
      outcome.add(devices[i].dev_id, let_go(place, devices[i]));
      devices.erase(devices.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  if (deaf) return std::unexpected(std::move(*deaf));
  return std::move(outcome).get();
}

}  // namespace ublk
