// SPDX-License-Identifier: MIT
#include "device/lifecycle.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "device/server_process.h"
#include "server/target.h"
#include "sys/cpu_list.h"
#include "sys/sizes.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kQuiesceAgain = 100ms;

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
                "{}: a size of {} bytes is not a multiple of its block of {}",
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
  const auto server = ServerProcess::find(info);
  if (info.state == UBLK_S_DEV_LIVE) {
    TRY(check_quiesce(info, may_fail_io));
    TRY(control.quiesce(dev_id));
  }
  const auto until = steady_clock::now() + control.deadline();
  QuiesceAgain again(control, before);
  while (info.state == UBLK_S_DEV_LIVE) {
    if (steady_clock::now() > until)
      return std::unexpected(
          not_let_go(dev_id, control.deadline())
              .hint(fmt("ublk-bpf quiesce -n {} again, or end its server",
                        dev_id)));
    std::this_thread::sleep_for(kRetryPeriod);
    TRY(again.tick());
    info = TRY(started(control, dev_id));
  }
  // It has let go, and is about to end if it has no other device.
  if (server) (void)wait_for_end(*server, dev_id, kPatience);
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
  if (device.state && is_clone(device.state->target))
    return fail(EOPNOTSUPP,
                "{}: is a clone, which gets another size with another server",
                device_name(dev_id));
  if (device.state && !device.state->target.track.empty())
    return std::unexpected(
        Error::plain(EOPNOTSUPP,
                     fmt("{}: tracks what is written, in a file that is for "
                         "its size",
                         device_name(dev_id)))
            .hint("delete it, remove its track file, and add it again"));
  if (device.state) {
    spec = device.state->target;
    spec->size_bytes = size.bytes;
    if (size.changed_file) spec->identities.clear();
    if (size.bytes || TRY(file_target(*spec))->takes_file) {
      const uint64_t gives = TRY_IN(device_name(dev_id), size_of(*spec));
      spec->identities = device.state->target.identities;
      if (!wanted.bytes) wanted.bytes = gives;
    }
  }
  TRY(check_size(device, wanted));
  TRY(control.set_size(dev_id, wanted.bytes >> kSectorShift));
  if (spec)
    TRY(states.change(dev_id, [&](DeviceState& state) {
      // Of which the server may have noted more meanwhile.
      spec->failed_legs = state.target.failed_legs;
      state.target = *spec;
    }));
  return wanted.bytes;
}

Result<void> set_queue_affinity(Control& control, const StateStore& states,
                                uint32_t dev_id, uint16_t q_id,
                                const std::vector<uint16_t>& cpus) {
  const auto info = TRY(started(control, dev_id));
  if (q_id >= info.nr_hw_queues)
    return fail(EINVAL, "{}: has no queue {}, only 0 to {}",
                device_name(dev_id), q_id, info.nr_hw_queues - 1);
  const auto server = ServerProcess::find(info);
  const auto threads =
      server ? queue_threads(server->pid(), dev_id, info.nr_hw_queues)
             : std::vector<QueueThread>();
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
