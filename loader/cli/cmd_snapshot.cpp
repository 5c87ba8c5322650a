// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "cli/command_line.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "device/fork.h"
#include "device/overlap.h"
#include "device/users.h"
#include "layer/layer.h"
#include "sys/unique_fd.h"
#include "sys/waiting.h"

// Commands that give the clone of a device another top layer.
namespace ublk::cli {

namespace {

int run_new_top(const Options& options, const NewTopRequest& request,
                Printing printing = Printing::device) {
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  const int status = run_server(
      options, false,
      [&](const ServeHooks& hooks) {
        return serve_recovered({.dev_id = dev_id,
                                .how = Succession::of_a_live_one,
                                .new_top = request},
                               hooks);
      },
      printing);
  // The server may have been killed before it could clear anything away.
  if (status != kDone)
    if (auto cleared = clear_new_top(StateStore::open_existing(), dev_id);
        !cleared)
      warn(cleared.error());
  return status;
}

// Who only has a look goes within a moment.
Result<void> check_unused(uint32_t dev_id) {
  const auto until = std::chrono::steady_clock::now() + kLook;
  for (;;) {
    const BlockUsers users = users_of(dev_id);
    if (users.empty()) return {};
    if (!users.lasting.empty() || std::chrono::steady_clock::now() > until)
      return std::unexpected(
          in_use(dev_id, users,
                 "whoever has it would have another disk without knowing; "
                 "--force does it all the same"));
    std::this_thread::sleep_for(kScanPeriod);
  }
}

// What the kernel has cached of the block device goes to it, and is forgotten.
Result<void> drop_cache(uint32_t dev_id) {
  const std::string path = fmt("/dev/ublkb{}", dev_id);
  const UniqueFd fd = TRY(UniqueFd::open(path, O_RDONLY | O_NONBLOCK));
  if (::ioctl(fd.get(), BLKFLSBUF, 0) != 0)
    return fail_sys(errno, "{}: BLKFLSBUF", path);
  return {};
}

}  // namespace

void define_snapshot(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("--to", options.to, "FILE",
               "name of the snapshot, on the file system of the device's "
               "layer; must not be there yet",
               true);
  command.footer(
      "What was written to a clone until now is a layer of its own from then "
      "on, sealed, which other layers can be made on. The device goes on with "
      "a new, empty layer on it, which has the name of the old one. I/O waits "
      "for a moment, none fails: writes that had completed before are in the "
      "snapshot, those that begin after it are not. For devices that were "
      "added with -r or -i.\n"
      "A file system that is mounted is in the snapshot as after a power "
      "failure; fsfreeze before makes it a clean one.\n"
      "Examples:\n"
      "  ublk-bpf snapshot -n 0 --to vm1-monday.delta");
}

int run_snapshot(const Options& options) {
  return run_new_top(options, {.kind = NewTopRequest::Kind::snapshot,
                               .sealed = for_server(options.to)});
}

void define_reset(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("--to", options.to, "LAYER",
               "one of the layers that the device's is on (default: the one "
               "right below it)");
  command.flag("--force", options.force, "even if somebody has the device");
  command.footer(
      "A clone is again what it was at its last snapshot, or at an earlier "
      "one: it gets a new, empty layer in place of the one that it has, and "
      "WHAT WAS WRITTEN SINCE THEN IS GONE. Layers in between stay as files. "
      "For devices that were added with -r or -i.\n"
      "Examples:\n"
      "  ublk-bpf reset -n 0\n"
      "  ublk-bpf reset -n 0 --to vm1-monday.delta");
}

int run_reset(const Options& options) {
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  const bool used = !users_of(dev_id).empty();
  if (!options.force)
    if (auto unused = check_unused(dev_id); !unused)
      return report(unused.error(), options.json);
  if (used)
    if (auto dropped = drop_cache(dev_id); !dropped)
      return report(dropped.error(), options.json);
  const int status = run_new_top(options, {.kind = NewTopRequest::Kind::reset,
                                           .onto = for_server(options.to)});
  if (status == kDone && used)
    if (auto dropped = drop_cache(dev_id); !dropped) warn(dropped.error());
  return status;
}

void define_fork(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("--to", options.to, "FILE",
               "the new device's layer; must not be there yet", true);
  command.text("--snapshot", options.snapshot, "FILE",
               "name of the layer that both are on (default: that of the "
               "device's layer with a number)");
  command.footer(
      "A second device that has what this one has now, as a clone on the same "
      "layers, with the same options; from then on each is written for "
      "itself. It takes a snapshot, unless nothing was written since the last "
      "one. For devices that were added with -r or -i.\n"
      "Examples:\n"
      "  ublk-bpf fork -n 0 --to vm2.delta\n"
      "  ublk-bpf fork -n 0 --to vm2.delta --snapshot golden-2.delta");
}

int run_fork(const Options& options) {
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const auto plan =
      plan_fork(*control, StateStore::open_existing(),
                static_cast<uint32_t>(options.dev_id),
                {.layer = options.to, .sealed = options.snapshot});
  if (!plan) return report(plan.error(), options.json);
  if (!plan->sealed.empty())
    if (const int status = run_new_top(
            options,
            {.kind = NewTopRequest::Kind::snapshot, .sealed = plan->sealed},
            Printing::none);
        status != kDone)
      return status;
  if (auto made = Layer::create(plan->layer); !made)
    return report(made.error(), options.json);
  const int status = run_server(options, false, [&](const ServeHooks& hooks) {
    return serve_new({plan->device}, hooks);
  });
  // The device may be there, although it could not be described.
  if (status != kDone &&
      check_no_device_has(StateStore::open_existing(), plan->layer.path))
    ::unlink(plan->layer.path.c_str());
  return status;
}

}  // namespace ublk::cli
