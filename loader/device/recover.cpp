// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "device/lifecycle.h"
#include "device/serve.h"
#include "device/workplace.h"
#include "sys/process.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kRecoveryWait = 30s;
constexpr auto kRetryPeriod = 5ms;

Error without_recovery(uint32_t dev_id) {
  return Error::plain(
             EINVAL, fmt("{}: was added without recovery", device_name(dev_id)))
      .hint(fmt("ublk-bpf del -n {}, and -r 1 at the next add", dev_id));
}

// A server that was killed takes a moment to be gone.
Result<void> begin_recovery(Control& control, uint32_t dev_id) {
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
      return std::unexpected(
          Error::plain(EBUSY, fmt("{}: is being served, by process {}",
                                  device_name(dev_id), now.ublksrv_pid))
              .hint(fmt("ublk-bpf takeover -n {}", dev_id)));
    if (steady_clock::now() > until) return begun;
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

// While it is quiesced the old server's process may live on, with other
// devices.
Result<void> begin_takeover(Control& control,
                            const ublksrv_ctrl_dev_info& before) {
  const uint32_t dev_id = before.dev_id;
  TRY(control.quiesce(dev_id));
  QuiesceAgain again(control, before);
  const auto until = steady_clock::now() + kRecoveryWait;
  for (;;) {
    auto begun = control.start_recovery(dev_id);
    if (begun) return begun;
    if (begun.error().code() != EBUSY || steady_clock::now() > until)
      return std::unexpected(
          std::move(begun).error().hint(fmt("ublk-bpf recover -n {}", dev_id)));
    std::this_thread::sleep_for(kRetryPeriod);
    TRY(again.tick());
  }
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

// What a file has lost meanwhile would be read as errors, and overwritten.
Result<void> check_size(Control& control, uint32_t dev_id,
                        const Target& target) {
  const uint64_t had = TRY(control.params(dev_id)).basic.dev_sectors;
  const uint64_t has = target.params.basic.dev_sectors;
  if (has >= had || target.spec.files.empty()) return {};
  return std::unexpected(
      Error::plain(EINVAL,
                   fmt("{}: {} has {} bytes of the {} that the device has",
                       device_name(dev_id), target.spec.files[0],
                       has << kSectorShift, had << kSectorShift))
          .hint("make it as large as it was, or ublk-bpf resize --shrink"));
}

}  // namespace

Result<void> serve_recovered(uint32_t dev_id, Succession how,
                             const ServeHooks& hooks) {
  Workplace place = TRY(Workplace::open());
  const auto before = TRY(place.control.info(dev_id));
  DeviceState state = TRY(state_of(place.states, dev_id));
  if (!(before.flags & UBLK_F_USER_RECOVERY))
    return std::unexpected(without_recovery(dev_id));
  const bool live =
      how == Succession::of_a_live_one && before.state == UBLK_S_DEV_LIVE;
  if (live) TRY(check_takeover(before));
  Target target = TRY(open_target(state.target));
  TRY(check_size(place.control, dev_id, target));
  UniqueFd held = TRY(place.states.hold(StateStore::Hold::shared));
  settle(hooks);
  TRY(live ? begin_takeover(place.control, before)
           : begin_recovery(place.control, dev_id));
  const auto info = TRY(place.control.info(dev_id));
  auto server =
      TRY_IN(device_name(dev_id),
             make_server(place, std::move(target), info, state.affinity));
  auto started = server->start();
  if (started) started = place.control.end_recovery(dev_id, ::getpid());
  auto device = started ? describe(place.control, place.states, dev_id)
                        : std::unexpected(started.error());
  if (!device) {
    // The device waits for the next attempt as it did for this one. To stop
    // it, which would end the threads, would be the end of it: they end with
    // the process.
    (void)server.release();
    return std::unexpected(std::move(device).error());
  }
  held.reset();
  // It is served again, whether somebody still waits for it or not.
  (void)hooks.live({*device});
  std::vector<Served> served;
  served.push_back({dev_id, state.instance, std::move(server)});
  return serve_to_the_end(place, std::move(served), hooks);
}

}  // namespace ublk
