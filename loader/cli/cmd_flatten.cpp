// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <thread>

#include "cli/command_line.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "device/server_process.h"
#include "layer/layer.h"
#include "sys/sizes.h"

namespace ublk::cli {

namespace {

constexpr std::chrono::milliseconds kLookPeriod{200};
constexpr std::chrono::seconds kTakeoverWait{5};

int take_over(const Options& options, std::optional<FlattenRequest> flatten,
              Printing printing) {
  return run_server(
      options, false,
      [&](const ServeHooks& hooks) {
        return serve_recovered({.dev_id = static_cast<uint32_t>(options.dev_id),
                                .how = Succession::of_a_live_one,
                                .flatten = flatten},
                               hooks);
      },
      printing);
}

void show(const FlattenState& now, bool last) {
  if (!::isatty(STDERR_FILENO)) return;
  const double part = now.size_bytes
                          ? static_cast<double>(now.looked_at_bytes) /
                                static_cast<double>(now.size_bytes)
                          : 1;
  std::fputs(fmt("\rflatten: {:3.0f}%, {} MiB copied{}", part * 100,
                 now.copied_bytes >> 20, last ? "\n" : "")
                 .c_str(),
             stderr);
}

Error no_server(uint32_t dev_id) {
  return Error::plain(ESRCH,
                      fmt("{}: its server has ended", device_name(dev_id)))
      .hint(fmt("ublk-bpf recover -n {}: the new one goes on with it", dev_id));
}

// Until it is done. ECANCELED: somebody has ended it.
Result<void> wait_for_it(Control& control, const StateStore& states,
                         uint32_t dev_id) {
  // A takeover is without a server for a moment.
  auto live = std::chrono::steady_clock::now();
  for (;;) {
    const DeviceState state = TRY(states.load(dev_id));
    if (!state.flatten)
      return fail(ECANCELED, "{}: somebody has ended it", device_name(dev_id));
    const FlattenState& now = *state.flatten;
    show(now, now.ended());
    if (now.done) return {};
    if (!now.error.empty())
      return std::unexpected(
          Error::plain(EIO, fmt("{}: {}", device_name(dev_id), now.error))
              .hint(fmt("what was copied stays; ublk-bpf flatten -n {} goes on "
                        "from there",
                        dev_id)));
    const auto info = TRY(control.info(dev_id));
    const auto at = std::chrono::steady_clock::now();
    if (info.state == UBLK_S_DEV_LIVE) live = at;
    if (at - live > kTakeoverWait) return std::unexpected(no_server(dev_id));
    std::this_thread::sleep_for(kLookPeriod);
  }
}

Result<FlattenRequest> request_of(const Options& options) {
  FlattenRequest request{.stops = options.stops};
  if (!options.rate.empty())
    request.bytes_per_second = TRY_IN("--rate", parse_size(options.rate));
  if (!options.rate.empty() && !request.bytes_per_second)
    return fail(EINVAL, "--rate {}: is not a rate", options.rate);
  if (!options.rate.empty() && options.stops)
    return fail(EINVAL, "--rate and --stop exclude each other");
  return request;
}

// Whether anything is below the device's layer.
Result<bool> is_independent(const StateStore& states, uint32_t dev_id) {
  const DeviceState state = TRY(states.load(dev_id));
  return is_clone(state.target) && state.target.layers.size() == 1;
}

}  // namespace

void define_flatten(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("--rate", options.rate, "SIZE",
               "bytes per second that are copied, at most (default: no limit)");
  command.flag("--stop", options.stops,
               "end it; what was copied stays, and the next one goes on there");
  command.footer(
      "Copies what is below a clone's layer up to it, while the device is in "
      "use, until the layer needs nothing else: the images and snapshots that "
      "it was on may go. The server does it; the command shows how far it is, "
      "and may be ended: info shows it too, and the same command waits for it "
      "again. It also goes on after recover and takeover. For devices that "
      "were added with -r or -i.\n"
      "Examples:\n"
      "  ublk-bpf flatten -n 0\n"
      "  ublk-bpf flatten -n 0 --rate 200M\n"
      "  ublk-bpf flatten -n 0 --stop");
}

int run_flatten(const Options& options) {
  const auto request = request_of(options);
  if (!request) return report(request.error(), options.json, kUsedWrongly);
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  const auto independent = is_independent(states, dev_id);
  if (!independent) return report(independent.error(), options.json);
  if (request->stops || *independent)
    return take_over(options, FlattenRequest{.stops = true}, Printing::device);
  if (const int status = take_over(options, *request, Printing::none);
      status != kDone)
    return status;
  if (auto done = wait_for_it(*control, states, dev_id); !done)
    return report(done.error(), options.json);
  // A server, and a program, that have no other file open any more.
  return take_over(options, std::nullopt, Printing::device);
}

}  // namespace ublk::cli
