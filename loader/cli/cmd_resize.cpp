// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/command_line.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/with_device.h"
#include "device/lifecycle.h"
#include "device/serve.h"
#include "sys/sizes.h"

namespace ublk::cli {

namespace {

bool is_clone_device(uint32_t dev_id) {
  const auto state = StateStore::open_existing().load(dev_id);
  return state && is_clone(state->target);
}

// By way of a new server, as the map of its blocks is of the disk's size.
int resize_clone(const Options& options, const NewSize& size) {
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  if (size.bytes == 0)
    return report(
        Error::plain(EINVAL, fmt("{}: is a clone, whose size nothing else says",
                                 device_name(dev_id)))
            .hint("--size SIZE"),
        options.json);
  return run_server(options, false, [&](const ServeHooks& hooks) {
    return serve_recovered({.dev_id = dev_id,
                            .how = Succession::of_a_live_one,
                            .size_bytes = size.bytes},
                           hooks);
  });
}

}  // namespace

void define_resize(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("-s,--size", options.add.size, "SIZE",
               "what it has from now on: bytes, or K, M, G, T (default: its "
               "file's)");
  command.flag("--shrink", options.shrink, "it may become smaller");
  command.changed_file(options.changed_file);
  command.footer(
      "While it is in use; a file system is to be told afterwards, or before "
      "the device shrinks. A clone, which must have been added with -r or -i, "
      "gets a new server, and its layer the size; it cannot shrink.\n"
      "Example:\n"
      "  truncate -s 2G disk.img\n"
      "  ublk-bpf resize -n 0\n"
      "  resize2fs /dev/ublkb0");
}

int run_resize(const Options& options) {
  NewSize size{.shrink = options.shrink, .changed_file = options.changed_file};
  if (!options.add.size.empty()) {
    const auto bytes = parse_size(options.add.size);
    if (!bytes)
      return report(Error(bytes.error()).in("--size"), options.json,
                    kUsedWrongly);
    size.bytes = *bytes;
    if (size.bytes == 0)
      return report(Error::plain(EINVAL, "--size 0: is not a size of a device"),
                    options.json, kUsedWrongly);
  }
  if (is_clone_device(static_cast<uint32_t>(options.dev_id)))
    return resize_clone(options, size);
  return with_device(options,
                     [&](Control& control, const StateStore& states,
                         uint32_t dev_id) -> Result<void> {
                       TRY(resize_device(control, states, dev_id, size));
                       return {};
                     });
}

}  // namespace ublk::cli
