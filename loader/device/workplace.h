// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "device/serve.h"
#include "device/state.h"
#include "server/server.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// What a server has open from before it leaves the mounts.
struct Workplace {
  Control control;
  StateStore states;
  UniqueFd dev_dir;
  UniqueFd proc_dir;
  bool devtmpfs = false;  // the kernel makes the nodes, before it says so

  static Result<Workplace> open(const ServeHooks& hooks);
};

// A name for what this process does now, which no other has.
std::string new_instance();

// What protects a server against waiting for itself: it leaves the mounts, and
// its memory stays. Not having the right to it is no reason not to serve.
void settle(const ServeHooks& hooks);

// Until the node of an unprivileged device is its owner's, which takes a udev
// rule. EACCES: in vain.
Result<void> wait_for_node(const Workplace& place, uint32_t dev_id);

// For a device that is there. `affinity` is the state's. Starts no thread yet.
Result<std::unique_ptr<Server>> make_server(
    Workplace& place, Target target, const ublksrv_ctrl_dev_info& info,
    const std::map<uint16_t, std::vector<uint16_t>>& affinity = {});

// A device that this process serves. Stop it before it is destroyed.
struct Served {
  uint32_t dev_id;
  std::string instance;
  std::unique_ptr<Server> server;
};

// Serves until all of them have ended: stopped or quiesced by somebody else, or
// left here after SIGTERM or SIGINT, which have to be blocked. Then a device
// that can be recovered is left to a successor. Another one is stopped and
// deleted if nobody uses it; else it is served until nobody does, or until a
// second signal.
Result<void> serve_to_the_end(Workplace& place, std::vector<Served> devices,
                              const ServeHooks& hooks);

}  // namespace ublk
