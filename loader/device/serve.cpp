// SPDX-License-Identifier: MIT
#include "device/serve.h"

#include <ublk_bpf_maps.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "device/clone.h"
#include "device/clone_program.h"
#include "device/driver_flags.h"
#include "device/lifecycle.h"
#include "device/loaded_clone.h"
#include "device/mirror.h"
#include "device/overlap.h"
#include "device/state.h"
#include "device/track.h"
#include "device/track_program.h"
#include "device/workplace.h"
#include "server/server.h"
#include "sys/process.h"

namespace ublk {

namespace {

uint64_t flags_of(const AddRequest& request, const DataPath& path,
                  uint64_t features) {
  uint64_t flags =
      UBLK_F_CMD_IOCTL_ENCODE | request.recovery_flags | path.flags;
  if (request.batch) flags |= UBLK_F_BATCH_IO;
  if (request.unprivileged) return flags | UBLK_F_UNPRIVILEGED_DEV;
  if (request.bpf) flags |= features & UBLK_F_BPF;
  if (!request.part_scan) flags |= UBLK_F_NO_AUTO_PART_SCAN;
  // So that a new server can take it over.
  if (request.recovery_flags & UBLK_F_USER_RECOVERY)
    flags |= features & UBLK_F_QUIESCE;
  return flags | (features & UBLK_F_UPDATE_SIZE);
}

// A device that has been added but is not to stay yet. Destruction deletes it.
class NewDevice {
 public:
  NewDevice(Workplace& place, uint32_t dev_id, const std::string& instance)
      : place_(place), device_{dev_id, instance, nullptr} {}
  NewDevice(const NewDevice&) = delete;
  ~NewDevice() {
    if (kept_) return;
    // The first lets the threads end, without which the second would wait.
    // Why it was not kept is what the user hears; what stays is for gc.
    (void)place_.control.stop(device_.dev_id);
    device_.server.reset();
    if (track) (void)track->save();
    track.reset();
    if (const auto state = place_.states.load(device_.dev_id);
        state && state->instance == device_.instance && state->clone_maps.bits)
      (void)leave_loaded_clones(device_.dev_id, state->clone_maps);
    (void)place_.control.remove(device_.dev_id);
    (void)place_.states.remove(device_.dev_id, device_.instance);
  }
  // Of which nothing was written.
  std::shared_ptr<Track> track{};
  Served& served() { return device_; }
  Served keep() {
    kept_ = true;
    track.reset();
    return std::move(device_);
  }

 private:
  Workplace& place_;
  Served device_;
  bool kept_ = false;
};

// A request whose files are open.
struct Opened {
  const AddRequest& request;
  const DataPath& path;
  Target target;
  std::unique_ptr<CloneProgram> program{};  // of a clone that has one
  std::unique_ptr<TrackProgram> tracker{};  // of a device that tracks
};

// The driver gives no other process's pages to one that it does not trust.
constexpr uint64_t kPrivileged =
    UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;

Result<void> check_privilege(const AddRequest& request) {
  if (request.unprivileged == !is_admin()) return {};
  if (request.unprivileged)
    return fail(EINVAL,
                "--unprivileged: is for users without CAP_SYS_ADMIN, the "
                "driver makes a device of root's a privileged one");
  return std::unexpected(
      Error::sys(EPERM, "new device: add")
          .hint("this needs root (CAP_SYS_ADMIN), or --unprivileged"));
}

// The program half of a clone, if it can have one; else its server is enough,
// and says why.
std::unique_ptr<CloneProgram> open_program(Target& target) {
  if (!target.clone || target.clone->read_only() || target.inner)
    return nullptr;
  auto program = CloneProgram::load(target);
  if (program) return std::move(*program);
  target.remark = std::move(program).error();
  return nullptr;
}

// Likewise of one that tracks what is written. It may have it without recovery:
// all counts as changed if the maps go with the server.
std::unique_ptr<TrackProgram> open_tracker(Target& target) {
  if (!target.track) return nullptr;
  auto program = TrackProgram::load(target);
  if (program) return std::move(*program);
  target.remark = std::move(program).error();
  return nullptr;
}

Result<Opened> open_request(const AddRequest& request, uint64_t features) {
  TRY(check_privilege(request));
  if (request.unprivileged) features &= ~kPrivileged;
  const DataPath* path = TRY(choose_data_path(request.data_path, features));
  if (request.batch) TRY(check_batch(*path, features));
  TRY(check_wanted(flags_of(request, *path, features), features));
  TargetSpec spec = request.target;
  spec.is_new = true;  // of a fork it is another device's
  Opened opened{request, *path, TRY(open_target(spec))};
  // Without recovery the device ends with its server, and the program's map
  // with the device, whatever it has that the layer lacks.
  if (request.bpf && features & UBLK_F_BPF &&
      request.recovery_flags & UBLK_F_USER_RECOVERY)
    opened.program = open_program(opened.target);
  if (request.bpf && features & UBLK_F_BPF)
    opened.tracker = open_tracker(opened.target);
  return opened;
}

Result<ublksrv_ctrl_dev_info> add(Workplace& place, const Opened& opened,
                                  uint64_t features) {
  const AddRequest& request = opened.request;
  ublksrv_ctrl_dev_info info{};
  info.dev_id = request.dev_id;
  info.nr_hw_queues = request.nr_hw_queues;
  info.queue_depth = request.queue_depth;
  info.max_io_buf_bytes = request.target.max_io_bytes;
  info.flags = flags_of(request, opened.path, features);
  auto added = place.control.add(info);
  if (!added && added.error().code() == EEXIST)
    return std::unexpected(std::move(added).error().hint(fmt(
        "-n of another number, or first ublk-bpf del -n {}", request.dev_id)));
  TRY(std::move(added));
  return info;
}

// From a device that has been added to one that is live.
Result<void> bring_up(Workplace& place, const ServeHooks& hooks, Opened opened,
                      const ublksrv_ctrl_dev_info& info, Served& device,
                      const std::string& server) {
  const uint32_t dev_id = info.dev_id;
  if (opened.request.unprivileged) TRY(wait_for_node(place, dev_id));
  // The driver leaves out what it cannot do for this device.
  TRY_IN(device_name(dev_id), check_data_path(opened.path, info.flags));
  if (opened.request.batch)
    TRY_IN(device_name(dev_id), check_batch(opened.path, info.flags));
  TRY_IN(device_name(dev_id),
         check_wanted(flags_of(opened.request, opened.path, info.flags),
                      info.flags));
  ublk_params params = opened.target.params;
  TRY(place.control.set_params(dev_id, params));
  // Of a device of this number that has vanished: a map may be all that its
  // clone's layer lacks.
  if (place.states.load(dev_id))
    if (auto done = forget(place.states, dev_id); !done)
      return std::unexpected(std::move(done).error().hint(
          "ublk-bpf gc clears what the last device of this number has left"));
  const uint32_t legs_map =
      TRY(connect_legs(place, hooks, info, opened.target, 0));
  CloneMaps clone_maps;
  if (opened.program && dev_id >= UBLK_BPF_DISKS) {
    hooks.trouble(Error::plain(
        EOPNOTSUPP, fmt("{}: the program of clones serves devices below {}: "
                        "the server serves it alone",
                        device_name(dev_id), UBLK_BPF_DISKS)));
    opened.program.reset();
  }
  if (opened.program) {
    TRY_IN(device_name(dev_id), opened.program->connect(opened.target, dev_id));
    clone_maps = opened.program->maps();
  } else {
    TRY(connect_clone(place.states, dev_id, opened.target, Adopt::no));
  }
  TRY(connect_track(place.states, hooks, dev_id, opened.target,
                    opened.tracker.get(), false));
  const DeviceState state{
      .dev_id = dev_id,
      .name = opened.request.name,
      .instance = device.instance,
      .server = server,
      .target = opened.target.spec,
      .attached = std::nullopt,
      .legs_map = legs_map,
      .clone_maps = clone_maps,
      .track_maps = opened.tracker ? opened.tracker->maps() : TrackMaps()};
  const auto clone = opened.target.clone;
  device.server = TRY_IN(device_name(dev_id),
                         make_server(place, std::move(opened.target), info));
  TRY_IN(device_name(dev_id), device.server->start());
  TRY(place.states.save_new(state, [&](uint32_t other) {
    const auto its = place.control.info(other);
    return its || its.error().code() != ENODEV;
  }));
  TRY(place.control.start(dev_id, ::getpid()));
  if (opened.program)
    TRY_IN(device_name(dev_id),
           attach_clone(place, *opened.program, dev_id, *clone));
  if (opened.tracker)
    TRY_IN(device_name(dev_id), opened.tracker->attach(place, dev_id));
  return {};
}

}  // namespace

Result<void> serve_new(const std::vector<AddRequest>& requests,
                       const ServeHooks& hooks) {
  Workplace place = TRY(Workplace::open(hooks));
  const uint64_t features = TRY(place.control.features());
  std::vector<Opened> opened;
  for (const AddRequest& request : requests)
    opened.push_back(TRY(open_request(request, features)));
  for (const Opened& one : opened)
    if (one.target.remark) hooks.trouble(*one.target.remark);
  std::vector<TargetSpec> claims;
  for (const Opened& one : opened)
    if (!one.request.shared || one.target.clone)
      claims.push_back(claim_of(one.target));
  KnownStates known(place.states);
  TRY(check_claims(place.control, known, claims));
  UniqueFd held = TRY(
      place.states.hold(StateStore::Hold::shared, place.control.deadline()));
  for (const Opened& one : opened)
    TRY(write_left_maps(place.control, known, one.target));
  if (is_admin()) settle(hooks);

  const std::string server = new_instance();
  std::vector<std::unique_ptr<NewDevice>> added;
  std::vector<Device> live;
  for (Opened& one : opened) {
    const auto info = TRY(add(place, one, features));
    added.push_back(
        std::make_unique<NewDevice>(place, info.dev_id, new_instance()));
    added.back()->track = one.target.track;
    TRY(bring_up(place, hooks, std::move(one), info, added.back()->served(),
                 server));
    live.push_back(TRY(describe(place.control, place.states, info.dev_id)));
  }
  // Who adds one at the same time has not seen ours, or not been seen: the one
  // that is live later sees the other.
  std::vector<uint32_t> ours;
  for (const Device& device : live) ours.push_back(device.info.dev_id);
  TRY(check_claims(place.control, known, claims, ours));
  if (!hooks.live(live))
    return fail(ECANCELED,
                "{}: is deleted again: the command that was to add "
                "it has been interrupted",
                device_name(live.front().info.dev_id));
  std::vector<Served> served;
  for (auto& device : added) served.push_back(device->keep());
  held.reset();
  return serve_to_the_end(place, std::move(served), hooks);
}

}  // namespace ublk
