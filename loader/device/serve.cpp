// SPDX-License-Identifier: MIT
#include "device/serve.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "device/state.h"
#include "server/server.h"
#include "sys/process.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kNodeWait = 5s;
constexpr auto kRecoveryWait = 30s;
constexpr auto kRetryPeriod = 5ms;

// What a server has open from before it leaves the mounts.
struct Workplace {
  Control control;
  StateStore states;
  UniqueFd dev_dir;

  static Result<Workplace> open() {
    Control control = TRY(Control::open());
    StateStore states = TRY(StateStore::open());
    UniqueFd dev_dir = TRY(UniqueFd::open("/dev", O_PATH | O_DIRECTORY));
    return Workplace{std::move(control), std::move(states), std::move(dev_dir)};
  }
};

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

Result<std::vector<cpu_set_t>> queue_cpus(Control& control,
                                          const ublksrv_ctrl_dev_info& info) {
  std::vector<cpu_set_t> cpus;
  for (uint16_t q = 0; q < info.nr_hw_queues; q++)
    cpus.push_back(TRY(control.queue_affinity(info.dev_id, q)));
  return cpus;
}

std::string new_instance() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return fmt("{}-{}.{:09}", ::getpid(), now.tv_sec, now.tv_nsec);
}

uint64_t flags_of(const AddRequest& request, const DataPath& path,
                  uint64_t features) {
  uint64_t flags =
      UBLK_F_CMD_IOCTL_ENCODE | request.recovery_flags | path.flags;
  if (request.batch) flags |= UBLK_F_BATCH_IO;
  if (request.bpf) flags |= features & UBLK_F_BPF;
  if (!request.part_scan) flags |= UBLK_F_NO_AUTO_PART_SCAN;
  return flags;
}

// A device that has been added but is not being served yet. Destruction
// deletes it.
class NewDevice {
 public:
  NewDevice(Workplace& place, uint32_t dev_id)
      : place_(place), dev_id_(dev_id) {}
  NewDevice(const NewDevice&) = delete;
  ~NewDevice() {
    if (kept_) return;
    // The first lets the threads end, without which the second would wait.
    (void)place_.control.stop(dev_id_);
    server.reset();
    (void)place_.control.remove(dev_id_);
    (void)place_.states.remove(dev_id_, "");
  }
  void keep() { kept_ = true; }

  std::unique_ptr<Server> server;

 private:
  Workplace& place_;
  uint32_t dev_id_;
  bool kept_ = false;
};

Result<std::unique_ptr<Server>> make_server(Workplace& place, Target target,
                                            const ublksrv_ctrl_dev_info& info) {
  UniqueFd char_fd = TRY(open_char(place.dev_dir, info.dev_id));
  const auto cpus = TRY(queue_cpus(place.control, info));
  return Server::create(std::move(target), std::move(char_fd), info, cpus);
}

// What protects against waiting for oneself. Not having the right to it is
// no reason not to serve.
void settle(const ServeHooks& hooks) {
  if (auto left = leave_mounts(); !left) hooks.trouble(left.error());
  if (auto became = become_io_server(); !became) hooks.trouble(became.error());
}

// Sleeps until a signal or the end of a queue; true if it was a signal.
Result<bool> wait_for_end(const Server& server) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  const UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!signal_fd.valid()) return fail_sys(errno, "signalfd");
  pollfd fds[] = {{.fd = signal_fd.get(), .events = POLLIN, .revents = 0},
                  {.fd = server.ended_fd(), .events = POLLIN, .revents = 0}};
  while (::poll(fds, 2, -1) < 0)
    if (errno != EINTR) return fail_sys(errno, "poll");
  return fds[0].revents != 0;
}

Result<void> serve_to_the_end(Workplace& place, std::unique_ptr<Server> server,
                              uint32_t dev_id, const std::string& instance) {
  auto signalled = wait_for_end(*server);
  if (!signalled || *signalled) {
    // Somebody else may be at it just now, and faster.
    const auto gone = [](const Result<void>& r) {
      return r || r.error().code() == ENODEV;
    };
    if (auto stopped = place.control.stop(dev_id); !gone(stopped))
      return stopped;
    auto joined = server->join();
    server.reset();
    if (auto removed = place.control.remove(dev_id); !gone(removed))
      return removed;
    TRY(place.states.remove(dev_id, instance));
    if (!signalled) return std::unexpected(std::move(signalled).error());
    return joined;
  }
  // Stopped by somebody, who also deletes it; or a queue has failed, then the
  // others must not go on without it.
  if (auto info = place.control.info(dev_id);
      info && info->state == UBLK_S_DEV_LIVE)
    (void)place.control.stop(dev_id);
  return server->join();
}

}  // namespace

Result<void> serve_new(const AddRequest& request, const ServeHooks& hooks) {
  Workplace place = TRY(Workplace::open());
  const uint64_t features = TRY(place.control.features());
  const DataPath* path = TRY(choose_data_path(request.data_path, features));
  if (request.batch) TRY(check_batch(*path, features));
  if (!request.part_scan && !(features & UBLK_F_NO_AUTO_PART_SCAN))
    return fail(EOPNOTSUPP,
                "--no-part-scan: this kernel's ublk_drv lacks "
                "UBLK_F_NO_AUTO_PART_SCAN");
  Target target = TRY(open_target(request.target));
  settle(hooks);

  ublksrv_ctrl_dev_info info{};
  info.dev_id = request.dev_id;
  info.nr_hw_queues = request.nr_hw_queues;
  info.queue_depth = request.queue_depth;
  info.max_io_buf_bytes = request.target.max_io_bytes;
  info.flags = flags_of(request, *path, features);
  auto added = place.control.add(info);
  if (!added && added.error().code() == EEXIST)
    return std::unexpected(std::move(added).error().hint(fmt(
        "-n of another number, or first ublk-bpf del -n {}", request.dev_id)));
  TRY(std::move(added));

  NewDevice device(place, info.dev_id);
  // The driver leaves out what it cannot do for this device.
  TRY_IN(device_name(info.dev_id), check_data_path(*path, info.flags));
  if (request.batch)
    TRY_IN(device_name(info.dev_id), check_batch(*path, info.flags));
  ublk_params params = target.params;
  TRY(place.control.set_params(info.dev_id, params));
  const DeviceState state{.dev_id = info.dev_id,
                          .instance = new_instance(),
                          .target = target.spec,
                          .attached = std::nullopt};
  device.server = TRY_IN(device_name(info.dev_id),
                         make_server(place, std::move(target), info));
  TRY_IN(device_name(info.dev_id), device.server->start());
  TRY(place.states.save(state));
  TRY(place.control.start(info.dev_id, ::getpid()));
  const Device live = TRY(describe(place.control, place.states, info.dev_id));
  device.keep();
  hooks.live(live);
  return serve_to_the_end(place, std::move(device.server), info.dev_id,
                          state.instance);
}

namespace {

// A server that was killed takes a moment to be gone.
Result<void> begin_recovery(Control& control, uint32_t dev_id) {
  const auto info = TRY(control.info(dev_id));
  if (!(info.flags & UBLK_F_USER_RECOVERY))
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: was added without recovery", device_name(dev_id)))
            .hint(fmt("ublk-bpf del -n {}, and -r 1 at the next add", dev_id)));
  const auto until = steady_clock::now() + kRecoveryWait;
  for (;;) {
    auto begun = control.start_recovery(dev_id);
    if (begun || begun.error().code() != EBUSY) return begun;
    const auto now = TRY(control.info(dev_id));
    if (now.state == UBLK_S_DEV_DEAD)
      return fail(ENODEV, "{}: has been stopped, there is nothing to recover",
                  device_name(dev_id));
    const UniqueFd server = pidfd_of(now.ublksrv_pid);
    if (now.state == UBLK_S_DEV_LIVE && server.valid() &&
        !wait_gone(server, 1s))
      return fail(EBUSY, "{}: is being served, by process {}",
                  device_name(dev_id), now.ublksrv_pid);
    if (steady_clock::now() > until) return begun;
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

}  // namespace

Result<void> serve_recovered(uint32_t dev_id, const ServeHooks& hooks) {
  Workplace place = TRY(Workplace::open());
  TRY(place.control.info(dev_id));
  auto state = place.states.load(dev_id);
  if (!state)
    return std::unexpected(std::move(state)
                               .error()
                               .in(device_name(dev_id))
                               .hint("only ublk-bpf's own devices can be "
                                     "recovered"));
  Target target = TRY(open_target(state->target));
  settle(hooks);
  TRY(begin_recovery(place.control, dev_id));
  const auto info = TRY(place.control.info(dev_id));
  auto server =
      TRY_IN(device_name(dev_id), make_server(place, std::move(target), info));
  auto started = server->start();
  if (started) started = place.control.end_recovery(dev_id, ::getpid());
  auto live = started ? describe(place.control, place.states, dev_id)
                      : std::unexpected(started.error());
  if (!live) {
    // The device waits for the next attempt as it did for this one. To stop
    // it, which would end the threads, would be the end of it: they end with
    // the process.
    (void)server.release();
    return std::unexpected(std::move(live).error());
  }
  hooks.live(*live);
  return serve_to_the_end(place, std::move(server), dev_id, state->instance);
}

}  // namespace ublk
