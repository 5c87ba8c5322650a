// SPDX-License-Identifier: MIT
#include "device/fork.h"

#include <cerrno>
#include <filesystem>

#include "device/clone.h"
#include "device/device.h"
#include "server/data_path.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;

bool is_there(const std::string& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

Result<void> check_free_name(const std::string& path) {
  if (!is_there(path)) return {};
  return fail(EEXIST, "{}: is there already, and is not overwritten", path);
}

// vm1.delta.1 of vm1.delta, or the next number that is free.
std::string next_name(const std::string& top, const std::string& taken) {
  for (uint64_t number = 1;; number++)
    if (std::string name = fmt("{}.{}", top, number);
        !is_there(name) && name != taken)
      return name;
}

// The options that the device was added with.
AddRequest request_like(const Device& device, const std::string& layer) {
  const uint64_t flags = device.info.flags;
  AddRequest request;
  request.target = device.state->target;
  request.target.files = {layer};
  request.target.identities.clear();
  request.target.layers.clear();
  request.nr_hw_queues = device.info.nr_hw_queues;
  request.queue_depth = device.info.queue_depth;
  request.recovery_flags =
      flags & (UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
               UBLK_F_USER_RECOVERY_FAIL_IO);
  request.data_path = std::string(data_path_of(flags).name);
  request.batch = flags & UBLK_F_BATCH_IO;
  request.bpf = flags & UBLK_F_BPF;
  request.part_scan = !(flags & UBLK_F_NO_AUTO_PART_SCAN);
  return request;
}

}  // namespace

Result<ForkPlan> plan_fork(Control& control, const StateStore& states,
                           uint32_t dev_id, const ForkRequest& request) {
  const std::string name = device_name(dev_id);
  const Device device = TRY(describe(control, states, dev_id));
  if (device.state_error) return std::unexpected(*device.state_error);
  if (!device.state)
    return fail(ENOENT, "{}: is not a device of ublk-bpf's", name);
  if (device.state->target.read_only)
    return fail(EINVAL,
                "{}: is read-only: layer create makes a layer on it, and add a "
                "device of that",
                name);
  const std::string layer = fs::absolute(request.layer).string();
  TRY(check_free_name(layer));
  const LiveChain live = TRY(live_chain(states, dev_id));
  const Layer& top = live.chain.layers.front();
  const LayerBase& base = top.header().base;
  ForkPlan plan{.layer = {.path = layer,
                          .size_bytes = top.header().size_bytes,
                          .block_bytes = top.header().block_bytes},
                .device = request_like(device, layer)};
  if (top.blocks().count() == 0 && request.sealed.empty()) {
    if (base.kind != LayerBase::Kind::none) {
      plan.layer.base = fs::canonical(base.path).string();
      plan.layer.base_kind = base.kind;
    }
    return plan;
  }
  plan.sealed = request.sealed.empty() ? next_name(top.file().path, layer)
                                       : fs::absolute(request.sealed).string();
  TRY(check_free_name(plan.sealed));
  if (plan.sealed == layer)
    return fail(EINVAL, "{}: --to and --snapshot are the same", layer);
  plan.layer.base = plan.sealed;
  plan.layer.base_kind = LayerBase::Kind::layer;
  return plan;
}

}  // namespace ublk
