// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "device/clone_program.h"
#include "device/heir.h"
#include "device/lifecycle.h"
#include "device/mirror.h"
#include "device/new_top.h"
#include "device/serve.h"
#include "device/server_process.h"
#include "device/track.h"
#include "device/track_program.h"
#include "device/workplace.h"
#include "sys/sizes.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

Error without_recovery(uint32_t dev_id) {
  return Error::plain(
             EINVAL, fmt("{}: was added without recovery", device_name(dev_id)))
      .hint(fmt("ublk-bpf del -n {}, and -r 1 at the next add", dev_id));
}

// For a process that has left /proc with the other mounts.
std::optional<ServerProcess> server_of(const Workplace& place,
                                       const ublksrv_ctrl_dev_info& info) {
  if (::fchdir(place.proc_dir.get()) != 0) return std::nullopt;
  auto server = ServerProcess::find(info, ".");
  if (::chdir("/") != 0) return std::nullopt;
  return server;
}

Error not_let_go(const Workplace& place, uint32_t dev_id) {
  const auto time = place.control.deadline();
  const bool there = ::fchdir(place.proc_dir.get()) == 0;
  Error error = ublk::not_let_go(dev_id, time, there ? "." : "/proc");
  (void)!::chdir("/");
  return error;
}

// The driver lets the next server in when nobody has the device open any more.
// Until then `meanwhile` is done between two attempts.
Result<void> begin_when_let_go(Workplace& place, uint32_t dev_id,
                               const std::function<Result<void>()>& meanwhile) {
  const auto until = steady_clock::now() + place.control.deadline();
  for (;;) {
    auto begun = place.control.start_recovery(dev_id);
    if (begun || begun.error().code() != EBUSY) return begun;
    TRY(meanwhile());
    if (steady_clock::now() > until)
      return std::unexpected(not_let_go(place, dev_id));
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

// A server that was killed takes a moment to be gone.
Result<void> begin_recovery(Workplace& place, uint32_t dev_id) {
  const auto look = [&]() -> Result<void> {
    const auto now = TRY(place.control.info(dev_id));
    if (now.state == UBLK_S_DEV_DEAD)
      return fail(ENODEV, "{}: has been stopped, there is nothing to recover",
                  device_name(dev_id));
    const auto server = server_of(place, now);
    if (now.state == UBLK_S_DEV_LIVE && server && !server->wait_gone(1s))
      return std::unexpected(
          Error::plain(EBUSY, fmt("{}: is being served, by process {}",
                                  device_name(dev_id), server->pid()))
              .hint(fmt("ublk-bpf takeover -n {}", dev_id)));
    return {};
  };
  auto begun = begin_when_let_go(place, dev_id, look);
  if (!begun && begun.error().code() == ETIMEDOUT)
    return std::unexpected(std::move(begun).error().hint(
        fmt("ublk-bpf recover -n {} again; --deadline SECONDS waits longer",
            dev_id)));
  return begun;
}

// While it is quiesced the old server's process may live on, with other
// devices.
Result<void> begin_takeover(Workplace& place,
                            const ublksrv_ctrl_dev_info& before) {
  const uint32_t dev_id = before.dev_id;
  TRY(place.control.quiesce(dev_id));
  QuiesceAgain again(place.control, before);
  auto begun = begin_when_let_go(place, dev_id, [&] { return again.tick(); });
  if (!begun && begun.error().code() == ETIMEDOUT)
    return std::unexpected(std::move(begun).error().hint(
        fmt("new I/O waits now; ublk-bpf takeover -n {} again goes on with it",
            dev_id)));
  if (!begun)
    return std::unexpected(
        std::move(begun).error().hint(fmt("ublk-bpf recover -n {}", dev_id)));
  return begun;
}

Result<void> check_takeover(const ublksrv_ctrl_dev_info& info) {
  if (info.flags & UBLK_F_USER_RECOVERY_FAIL_IO)
    return fail(EINVAL,
                "{}: fails I/O while it has no server (-e), which a takeover "
                "would do too",
                device_name(info.dev_id));
  return check_quiesce(info);
}

Result<DeviceState> state_of(const StateStore& states, uint32_t dev_id) {
  auto state = states.load(dev_id);
  if (!state)
    return std::unexpected(std::move(state)
                               .error()
                               .in(device_name(dev_id))
                               .hint("only ublk-bpf's own devices can be "
                                     "recovered"));
  return state;
}

// What a file has lost meanwhile would be read as errors, and overwritten. And
// a device whose file had no volatile cache gets no flush from the kernel.
Result<void> check_file(Control& control, uint32_t dev_id,
                        const Target& target) {
  if (target.spec.files.empty()) return {};
  const ublk_param_basic device = TRY(control.params(dev_id)).basic;
  const ublk_param_basic& file = target.params.basic;
  if (file.attrs & ~device.attrs & UBLK_ATTR_VOLATILE_CACHE)
    return fail(EINVAL,
                "{}: {} has a volatile write cache, which no flush would "
                "reach: the device was added on a disk without one",
                device_name(dev_id), target.spec.files[0]);
  const uint64_t had = device.dev_sectors;
  const uint64_t has = file.dev_sectors;
  if (has >= had) return {};
  return std::unexpected(
      Error::plain(EINVAL,
                   fmt("{}: {} has {} bytes of the {} that the device has",
                       device_name(dev_id), target.spec.files[0],
                       has << kSectorShift, had << kSectorShift))
          .hint("make it as large as it was, or ublk-bpf resize --shrink"));
}

// Of a clone that had one. If it is attached its map is the clone's, and no
// other will do; else the server before this one has ended before it could
// attach it, and has saved what it wrote.
Result<std::unique_ptr<CloneProgram>> open_program(Workplace& place,
                                                   const DeviceState& state,
                                                   const Target& target) {
  if (!target.clone || (!state.clone_maps.bits && !state.new_top))
    return nullptr;
  const uint32_t dev_id = state.dev_id;
  const ublk_bpf_info attached = TRY(attached_program(place.control, dev_id));
  const uint32_t has = attached.prog_id;
  if (!state.clone_maps.bits && !has) return nullptr;
  if (!has) return CloneProgram::load(target);
  if (!state.clone_maps.bits)
    return CloneProgram::load_for_new_top(target, dev_id, has);
  const LayerChain& chain = target.clone->chain();
  const size_t nr_files = chain.layers.size() + (chain.base ? 1 : 0);
  auto program = CloneProgram::adopt(target, state.clone_maps);
  // Those of a server that was killed before it could attach its program may be
  // there still.
  if (program && !TRY(serves_with(has, dev_id, state.clone_maps)))
    program = fail(ENOENT, "map {}: is not of the program that is attached",
                   state.clone_maps.bits);
  // What a command that was killed between two programs has left.
  if (program && !attached.nr_retiring) (void)leave_other_clones(dev_id, has);
  if (program && nr_files < attached.nr_files &&
      !TRY((*program)->has_old_maps()))
    program =
        CloneProgram::adopt_for_less(target, state.clone_maps, dev_id, has);
  // The one that is attached is still that of the top before.
  if (!program && program.error().code() == ENOENT && state.new_top)
    return CloneProgram::load_for_new_top(target, dev_id, has);
  if (!program && program.error().code() == ENOENT)
    return std::unexpected(std::move(program).error().hint(
        "its program goes on with the layer that it was attached with; del and "
        "add serve another"));
  return program;
}

// Of a device that tracks what is written, and had one. If its maps are gone
// all counts as changed.
Result<std::unique_ptr<TrackProgram>> open_tracker(Workplace& place,
                                                   const DeviceState& state,
                                                   const Target& target) {
  if (!target.track || !state.track_maps.bits) return nullptr;
  if (!TRY(attached_program(place.control, state.dev_id)).prog_id)
    return TrackProgram::load(target);
  return TrackProgram::adopt(target, state.track_maps);
}

Result<void> connect_tracker(Workplace& place, const ServeHooks& hooks,
                             Heir& heir) {
  const uint32_t dev_id = heir.before.dev_id;
  if (heir.tracker)
    TRY(check_program(place, dev_id, heir.tracker->is_attached()));
  TRY(connect_track(place.states, hooks, dev_id, heir.target,
                    heir.tracker.get(), true));
  if (!heir.tracker) return {};
  return place.states.change(dev_id, [&](DeviceState& state) {
    state.track_maps = heir.tracker->maps();
  });
}

Result<void> prepare_flatten(Heir& heir, const FlattenRequest& request) {
  const auto& clone = heir.target.clone;
  if (!clone)
    return fail(EINVAL, "its target is {}: only a clone has layers",
                heir.state.target.type);
  if (clone->read_only())
    return fail(EINVAL, "is read-only: nothing can be brought to its layer");
  heir.state.flatten.reset();
  if (!request.stops)
    heir.state.flatten =
        FlattenState{.bytes_per_second = request.bytes_per_second,
                     .size_bytes = clone->header().size_bytes};
  return {};
}

Result<Heir> examine(Workplace& place, const RecoverRequest& request,
                     uint32_t dev_id) {
  const Succession how = request.how;
  UniqueFd held =
      TRY_IN(device_name(dev_id),
             place.states.hold_device(dev_id, place.control.deadline()));
  const auto before = TRY(place.control.info(dev_id));
  DeviceState state = TRY(state_of(place.states, dev_id));
  TRY_IN(device_name(dev_id), resolve_new_top(place.states, state));
  if (!(before.flags & UBLK_F_USER_RECOVERY))
    return std::unexpected(without_recovery(dev_id));
  const bool live =
      how == Succession::of_a_live_one && before.state == UBLK_S_DEV_LIVE;
  if (live) TRY(check_takeover(before));
  if (request.changed_file && state.clone_maps.bits)
    return fail(EBUSY,
                "{}: --changed-file: its program goes on with the layer that "
                "it was attached with",
                device_name(dev_id));
  if (request.changed_file) state.target.identities.clear();
  Target target = TRY_IN(device_name(dev_id), open_target(state.target));
  TRY(check_file(place.control, dev_id, target));
  state.target.identities = target.spec.identities;
  state.target.layers = target.spec.layers;
  auto program =
      TRY_IN(device_name(dev_id), open_program(place, state, target));
  auto tracker =
      TRY_IN(device_name(dev_id), open_tracker(place, state, target));
  Heir heir{.before = before,
            .state = std::move(state),
            .target = std::move(target),
            .live = live,
            .program = std::move(program),
            .held = std::move(held),
            .tracker = std::move(tracker)};
  if (request.flatten)
    TRY_IN(device_name(dev_id), prepare_flatten(heir, *request.flatten));
  if (heir.state.flatten && heir.state.flatten->ended())
    heir.state.flatten.reset();
  if (request.size_bytes)
    TRY_IN(device_name(dev_id), prepare_size(place, heir, *request.size_bytes));
  // Of an earlier version: what serves all clones cannot have them. If it
  // cannot be now, the next server tries it again.
  if (heir.program && !heir.renewed && heir.program->is_attached() &&
      !request.new_top && !heir.state.new_top && !heir.state.flatten &&
      heir.program->check_can_freeze() && TRY(heir.program->has_old_maps()))
    if (!prepare_new_map(place, heir, heir.target.clone->header().size_bytes))
      heir.next_program.reset();
  if (request.new_top)
    TRY_IN(device_name(dev_id), prepare_new_top(place, heir, *request.new_top));
  return heir;
}

// The other devices that this one's last server had, those that are not dead.
std::vector<ublksrv_ctrl_dev_info> others_of_server(Workplace& place,
                                                    const DeviceState& state) {
  std::vector<ublksrv_ctrl_dev_info> others;
  if (state.server.empty()) return others;
  for (const uint32_t other : place.states.ids()) {
    if (other == state.dev_id) continue;
    const auto its = place.states.load(other);
    if (!its || its->server != state.server) continue;
    const auto now = place.control.info(other);
    if (now && now->state != UBLK_S_DEV_DEAD) others.push_back(*now);
  }
  return others;
}

// The devices of the server that this one has, or has had.
Result<std::vector<uint32_t>> of_its_server(Workplace& place, uint32_t dev_id,
                                            Succession how) {
  const auto info = TRY(place.control.info(dev_id));
  const auto server = ServerProcess::find(info);
  if (how == Succession::of_a_live_one && server)
    return std::vector(server->had().begin(), server->had().end());
  const DeviceState state = TRY(state_of(place.states, dev_id));
  std::vector<uint32_t> dev_ids{dev_id};
  // Not those that have been given to another server.
  for (const auto& other : others_of_server(place, state))
    if (other.state != UBLK_S_DEV_LIVE) dev_ids.push_back(other.dev_id);
  std::ranges::sort(dev_ids);
  return dev_ids;
}

// Those that the device's last server had, and that nobody serves now.
std::vector<uint32_t> left_without_server(Workplace& place,
                                          const DeviceState& state) {
  std::vector<uint32_t> dev_ids;
  std::optional<ServerProcess> server;
  for (const auto& other : others_of_server(place, state)) {
    // The driver may not have noticed yet that it has none.
    if (other.state == UBLK_S_DEV_LIVE &&
        !(server && server->pid() == other.ublksrv_pid &&
          server->had(other.dev_id)))
      server = server_of(place, other);
    if (other.state != UBLK_S_DEV_LIVE || !server)
      dev_ids.push_back(other.dev_id);
  }
  return dev_ids;
}

// Who has recovered one may have forgotten them.
void hint_at_others(Workplace& place, const ServeHooks& hooks,
                    const DeviceState& state) {
  const auto others = left_without_server(place, state);
  if (others.empty()) return;
  hooks.trouble(
      Error::plain(ESRCH, fmt("{}: its server had {} other {}, without a "
                              "server still: {}",
                              device_name(state.dev_id), others.size(),
                              others.size() == 1 ? "device" : "devices",
                              names_of(others)))
          .hint(fmt("ublk-bpf recover -n {}{}", others.front(),
                    others.size() == 1 ? "" : " --with-others")));
}

// What it tells is for whoever waits for it, and for the next server.
Result<void> begin_flatten(Workplace& place, const Heir& heir, Clone& clone) {
  const uint32_t dev_id = heir.before.dev_id;
  // The thread may outlive the place, when a server is given up.
  const auto states =
      std::make_shared<StateStore>(TRY(place.states.duplicate()));
  const auto tell = [states, dev_id](const FlattenProgress& now) {
    (void)states->change(dev_id, [&](DeviceState& state) {
      if (!state.flatten) return;
      state.flatten->looked_at_bytes = now.looked_at_bytes;
      state.flatten->copied_bytes = now.copied_bytes;
      state.flatten->done = now.done;
      state.flatten->error = now.error ? now.error->line() : "";
    });
  };
  if (auto begun = clone.flatten(heir.state.flatten->bytes_per_second, tell);
      !begun)
    tell({.error = std::move(begun).error()});
  return {};
}

// The thread of a server that fails here ends with the process: to stop its
// device, which would end them, would be the end of that too.
// `refused`: why it has its server, but not what was asked for.
Result<Served> succeed(Workplace& place, const ServeHooks& hooks, Heir& heir,
                       std::optional<Error>& refused) {
  const uint32_t dev_id = heir.before.dev_id;
  TRY(heir.live ? begin_takeover(place, heir.before)
                : begin_recovery(place, dev_id));
  const auto info = TRY(place.control.info(dev_id));
  const uint32_t legs_map =
      TRY(connect_legs(place, hooks, info, heir.target, heir.state.legs_map));
  TRY(place.states.change(dev_id, [&](DeviceState& state) {
    state.legs_map = legs_map;
    state.flatten = heir.state.flatten;
  }));
  TRY(connect(place, heir));
  TRY(connect_tracker(place, hooks, heir));
  const bool asked = heir.next || heir.size_bytes;
  if (auto kept = TRY(change_clone(place, heir)); kept && asked)
    refused = std::move(kept);
  else if (kept)
    hooks.trouble(std::move(*kept).in(device_name(dev_id)));
  const auto clone = heir.target.clone;
  // The driver gives the server requests as soon as its queues wait for them,
  // and what it has written the program of before would not read.
  if (heir.program && heir.program->replaces())
    TRY(attach_clone(place, *heir.program, dev_id, *clone));
  auto server = TRY_IN(
      device_name(dev_id),
      make_server(place, std::move(heir.target), info, heir.state.affinity));
  auto started = server->start();
  if (started && heir.program && !heir.program->is_attached() &&
      !heir.program->replaces())
    started = attach_clone(place, *heir.program, dev_id, *clone);
  if (started && heir.tracker && !heir.tracker->is_attached())
    started = heir.tracker->attach(place, dev_id);
  if (started) started = place.control.end_recovery(dev_id, ::getpid());
  if (started && heir.size_bytes && !refused)
    if (auto sized =
            place.control.set_size(dev_id, *heir.size_bytes >> kSectorShift);
        !sized)
      refused = std::move(sized).error().hint(
          "its layer has that size; the same command tries it again");
  // As above: its threads are not waited for if this fails.
  if (started && heir.state.flatten)
    started = begin_flatten(place, heir, *clone);
  Served served{dev_id, heir.state.instance, std::move(server)};
  if (started) return served;
  (void)served.server.release();
  return std::unexpected(std::move(started).error());
}

// And what its files are, which may be others now.
Result<void> note_server(Workplace& place, uint32_t dev_id,
                         const std::string& server, const TargetSpec& spec) {
  return place.states.change(dev_id, [&](DeviceState& state) {
    state.server = server;
    state.target.identities = spec.identities;
    state.target.layers = spec.layers;
    state.new_top.reset();
  });
}

}  // namespace

Result<void> serve_recovered(const RecoverRequest& request,
                             const ServeHooks& hooks) {
  Workplace place = TRY(Workplace::open(hooks));
  const auto dev_ids =
      request.with_others
          ? TRY(of_its_server(place, request.dev_id, request.how))
          : std::vector{request.dev_id};
  std::vector<Heir> heirs;
  for (const uint32_t dev_id : dev_ids)
    heirs.push_back(TRY(examine(place, request, dev_id)));
  UniqueFd held = TRY(
      place.states.hold(StateStore::Hold::shared, place.control.deadline()));
  settle(hooks);
  const std::string server = new_instance();
  std::vector<Served> served;
  std::vector<Device> live;
  const auto give_up = [&](Error error) {
    for (Served& device : served) (void)device.server.release();
    return std::unexpected(std::move(error));
  };
  std::optional<Error> refused;
  for (Heir& heir : heirs) {
    const uint32_t dev_id = heir.before.dev_id;
    auto one = succeed(place, hooks, heir, refused);
    if (!one) return give_up(std::move(one).error());
    served.push_back(std::move(*one));
    if (auto noted = note_server(place, dev_id, server, heir.state.target);
        !noted)
      hooks.trouble(noted.error());
    if (!request.with_others) hint_at_others(place, hooks, heir.state);
    auto device = describe(place.control, place.states, dev_id);
    if (!device) return give_up(std::move(device).error());
    live.push_back(std::move(*device));
  }
  held.reset();
  heirs.clear();
  // They are served again, whether somebody still waits for it or not.
  if (refused)
    hooks.refused(*refused, live);
  else
    (void)hooks.live(live);
  return serve_to_the_end(place, std::move(served), hooks);
}

}  // namespace ublk
