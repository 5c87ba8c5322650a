// SPDX-License-Identifier: MIT
#include "device/lifecycle.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <sstream>
#include <thread>

#include "server/queue.h"
#include "server/target.h"
#include "sys/cpu_list.h"
#include "sys/process.h"
#include "sys/sizes.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kLetGoWait = 30s;
constexpr auto kRetryPeriod = 5ms;
constexpr auto kQuiesceAgain = 100ms;

// How many requests of a block device have completed: reads, writes, discards
// and flushes of /sys/block/X/stat. Its other numbers change by themselves.
std::string completions(const std::string& stat_path) {
  std::istringstream words(read_text(stat_path).value_or(""));
  std::string word, all;
  for (int i = 0; words >> word; i++)
    if (i == 0 || i == 4 || i == 11 || i == 15) all += word + " ";
  return all;
}

// Notices a server that does not let its device be stopped: no request of the
// device completes for as long as `patience`.
class Watchdog {
 public:
  Watchdog(uint32_t dev_id, const UniqueFd& server,
           std::chrono::milliseconds patience)
      : stat_path_(fmt("/sys/block/ublkb{}/stat", dev_id)),
        server_(server),
        patience_(patience) {}

  void tick() {
    auto stat = completions(stat_path_);
    const auto now = steady_clock::now();
    if (stat != stat_) {
      stat_ = std::move(stat);
      since_ = now;
    } else if (now - since_ > patience_ && server_.valid()) {
      ::syscall(SYS_pidfd_send_signal, server_.get(), SIGKILL, nullptr, 0);
    }
  }

 private:
  std::string stat_path_;
  const UniqueFd& server_;
  std::chrono::milliseconds patience_;
  std::string stat_;
  steady_clock::time_point since_ = steady_clock::now();
};

// Whether a server has another device than this one, too.
bool has_others(pid_t server, uint32_t dev_id) {
  return std::ranges::any_of(threads_of(server), [&](const ThreadInfo& thread) {
    return device_of_thread(thread.name).value_or(dev_id) != dev_id;
  });
}

// A server of ours ends with its last device.
bool wait_for_server(const ublksrv_ctrl_dev_info& info, const UniqueFd& server,
                     std::chrono::milliseconds patience) {
  const auto until = steady_clock::now() + patience;
  do {
    if (has_others(info.ublksrv_pid, info.dev_id)) return true;
    if (wait_gone(server, std::min(patience, 100ms))) return true;
  } while (steady_clock::now() < until);
  return false;
}

Result<ublksrv_ctrl_dev_info> started(Control& control, uint32_t dev_id) {
  const auto info = TRY(control.info(dev_id));
  if (info.state == UBLK_S_DEV_DEAD)
    return fail(ENODEV, "{}: has been stopped, or was never started",
                device_name(dev_id));
  return info;
}

// What size a device of this specification has.
Result<uint64_t> size_of(const TargetSpec& spec) {
  const Target target = TRY(open_target(spec));
  return uint64_t{target.params.basic.dev_sectors} << kSectorShift;
}

Result<void> check_size(const Device& device, const NewSize& size) {
  const std::string name = device_name(device.info.dev_id);
  if (size.bytes % device.block_bytes())
    return fail(EINVAL,
                "{}: a size of {} bytes is no multiple of its block of {}",
                name, size.bytes, device.block_bytes());
  if (size.bytes == 0)
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: has no file whose size it could have", name))
            .hint("--size SIZE"));
  if (size.bytes < device.size_bytes() && !size.shrink)
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: has {} bytes, what is behind {} would be cut off",
                         name, device.size_bytes(), size.bytes))
            .hint("--shrink allows it"));
  return {};
}

}  // namespace

Result<void> stop_device(Control& control, uint32_t dev_id, bool unused_only,
                         std::chrono::milliseconds patience) {
  const auto info = TRY(control.info(dev_id));
  if (info.state == UBLK_S_DEV_DEAD) return {};
  const UniqueFd server = pidfd_of(info.ublksrv_pid);
  Watchdog watch(dev_id, server, patience);
  const ControlTick tick = [&] { watch.tick(); };
  if (unused_only && !(info.flags & UBLK_F_SAFE_STOP_DEV))
    return fail(EOPNOTSUPP,
                "{}: the driver cannot tell whether it is in use: it has no "
                "UBLK_F_SAFE_STOP_DEV",
                device_name(dev_id));
  if (unused_only) {
    auto stopped = control.stop_unused(dev_id, tick);
    if (!stopped && stopped.error().code() == EBUSY)
      return std::unexpected(std::move(stopped).error().hint(
          "it is mounted or open; without --safe it is stopped regardless"));
    TRY(std::move(stopped));
  } else {
    TRY(control.stop(dev_id, tick));
  }
  (void)wait_for_server(info, server, patience);
  return {};
}

namespace {

// The driver starts a device that is being deleted, if an add had come so far,
// and the deletion would wait for its server. Such a device has no ublkcN any
// more: another one that has got its number is not meant.
void stop_if_started(uint32_t dev_id, std::chrono::milliseconds patience) {
  auto control = Control::open();  // the caller's is waiting
  if (!control) return;
  const auto info = control->info(dev_id);
  // Whoever waits for the device's end sees whether this has helped.
  if (info && info->state == UBLK_S_DEV_LIVE &&
      !std::ranges::binary_search(device_ids(), dev_id))
    (void)stop_device(*control, dev_id, false, patience);
}

}  // namespace

Result<void> remove_device(Control& control, const StateStore& states,
                           uint32_t dev_id, Removal how,
                           std::chrono::milliseconds patience) {
  const auto info = control.info(dev_id);
  if (!info) {
    // What an unclean end has left of it.
    if (info.error().code() == ENODEV) TRY(states.remove(dev_id, ""));
    return std::unexpected(info.error());
  }
  const auto state = states.load(dev_id);
  const std::string instance = state ? state->instance : "";
  const UniqueFd server = pidfd_of(info->ublksrv_pid);
  Watchdog stop_watch(dev_id, server, patience);
  TRY(control.stop(dev_id, [&] { stop_watch.tick(); }));
  Watchdog remove_watch(dev_id, server, patience);
  const ControlTick tick = [&] {
    remove_watch.tick();
    stop_if_started(dev_id, patience);
  };
  auto removed = how == Removal::waits ? control.remove(dev_id, tick)
                                       : control.begin_remove(dev_id);
  // The server may have been told to end too, and have deleted it itself.
  if (!removed && removed.error().code() != ENODEV) return removed;
  // A busy machine takes its time over it; nothing is lost meanwhile.
  if (how == Removal::waits && !wait_for_server(*info, server, kLetGoWait))
    return fail(EBUSY,
                "{}: is deleted, but its server, process {}, does not end",
                device_name(dev_id), info->ublksrv_pid);
  return states.remove(dev_id, instance);
}

Result<void> check_quiesce(const ublksrv_ctrl_dev_info& info,
                           bool may_fail_io) {
  const std::string name = device_name(info.dev_id);
  if (!(info.flags & UBLK_F_QUIESCE))
    return std::unexpected(
        Error::plain(EOPNOTSUPP, fmt("{}: cannot be quiesced", name))
            .hint("only a device that was added with -r, -i or -e, on a driver "
                  "that has UBLK_F_QUIESCE"));
  // ublk_batch_cancel_queue() sets ->force_abort, of linux 7.0 to 7.3 at least.
  if (info.flags & UBLK_F_BATCH_IO && !may_fail_io)
    return std::unexpected(
        Error::plain(EOPNOTSUPP,
                     fmt("{}: is served in batches (-b), and ublk_drv fails "
                         "the I/O of such a device while it is quiesced",
                         name))
            .hint(fmt("ublk-bpf quiesce -n {} --fail-io", info.dev_id)));
  return {};
}

Result<void> QuiesceAgain::tick() {
  if (steady_clock::now() - last_ < kQuiesceAgain) return {};
  last_ = steady_clock::now();
  const auto now = TRY(control_.info(before_.dev_id));
  if (now.state != UBLK_S_DEV_LIVE || now.ublksrv_pid != before_.ublksrv_pid)
    return {};
  return control_.quiesce(before_.dev_id);
}

Result<void> quiesce_device(Control& control, uint32_t dev_id,
                            bool may_fail_io) {
  auto info = TRY(started(control, dev_id));
  const ublksrv_ctrl_dev_info before = info;
  const UniqueFd server = pidfd_of(info.ublksrv_pid);
  if (info.state == UBLK_S_DEV_LIVE) {
    TRY(check_quiesce(info, may_fail_io));
    TRY(control.quiesce(dev_id));
  }
  const auto until = steady_clock::now() + kLetGoWait;
  QuiesceAgain again(control, before);
  while (info.state == UBLK_S_DEV_LIVE) {
    if (steady_clock::now() > until)
      return fail(EBUSY, "{}: its server, process {}, does not let go of it",
                  device_name(dev_id), info.ublksrv_pid);
    std::this_thread::sleep_for(kRetryPeriod);
    TRY(again.tick());
    info = TRY(started(control, dev_id));
  }
  // It has let go, and is about to end if it has no other device.
  (void)wait_for_server(before, server, kPatience);
  return {};
}

Result<void> give_to_owner(Control& control, uint32_t dev_id) {
  const auto info = TRY(control.info(dev_id));
  if (!(info.flags & UBLK_F_UNPRIVILEGED_DEV))
    return fail(EINVAL, "{}: is not an unprivileged device",
                device_name(dev_id));
  for (const std::string& path : {char_path(dev_id), block_path(dev_id)})
    if (::chown(path.c_str(), info.owner_uid, info.owner_gid) != 0 &&
        errno != ENOENT)
      return fail_sys(errno, "{}: chown to {}:{}", path, info.owner_uid,
                      info.owner_gid);
  return {};
}

Result<uint64_t> resize_device(Control& control, const StateStore& states,
                               uint32_t dev_id, const NewSize& size) {
  const Device device = TRY(describe(control, states, dev_id));
  TRY(started(control, dev_id));
  if (!(TRY(control.features()) & UBLK_F_UPDATE_SIZE))
    return fail(EOPNOTSUPP,
                "{}: the driver cannot change a device's size: it has no "
                "UBLK_F_UPDATE_SIZE",
                device_name(dev_id));
  NewSize wanted = size;
  std::optional<TargetSpec> spec;
  if (device.state) {
    spec = device.state->target;
    spec->size_bytes = size.bytes;
    if (size.bytes || TRY(file_target(*spec))->takes_file) {
      const uint64_t gives = TRY_IN(device_name(dev_id), size_of(*spec));
      if (!wanted.bytes) wanted.bytes = gives;
    }
  }
  TRY(check_size(device, wanted));
  TRY(control.set_size(dev_id, wanted.bytes >> kSectorShift));
  if (spec)
    TRY(states.change(dev_id,
                      [&](DeviceState& state) { state.target = *spec; }));
  return wanted.bytes;
}

Result<void> set_queue_affinity(Control& control, const StateStore& states,
                                uint32_t dev_id, uint16_t q_id,
                                const std::vector<uint16_t>& cpus) {
  const auto info = TRY(started(control, dev_id));
  if (q_id >= info.nr_hw_queues)
    return fail(EINVAL, "{}: has no queue {}, only 0 to {}",
                device_name(dev_id), q_id, info.nr_hw_queues - 1);
  const auto threads =
      queue_threads(info.ublksrv_pid, dev_id, info.nr_hw_queues);
  const auto it = std::ranges::find(threads, q_id, &QueueThread::q_id);
  if (it == threads.end())
    return fail(ESRCH, "{}: queue {} has no thread of ours",
                device_name(dev_id), q_id);
  const cpu_set_t set = cpu_set_of(cpus);
  if (::sched_setaffinity(it->tid, sizeof(set), &set) != 0) {
    auto error = Error::sys(
        errno, fmt("{}: queue {}: moving thread {} to CPUs {}",
                   device_name(dev_id), q_id, it->tid, cpu_list(cpus)));
    if (error.code() == EINVAL)
      error = std::move(error).hint("none of them is there and online");
    return std::unexpected(std::move(error));
  }
  return states.change(
      dev_id, [&](DeviceState& state) { state.affinity[q_id] = cpus; });
}

}  // namespace ublk
