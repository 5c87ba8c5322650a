// SPDX-License-Identifier: MIT
#include "device/device.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "device/bpf.h"
#include "device/pins.h"
#include "server/queue.h"
#include "sys/cpu_list.h"
#include "sys/process.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

std::optional<uint32_t> number_after(std::string_view text,
                                     std::string_view prefix) {
  if (!text.starts_with(prefix)) return std::nullopt;
  text.remove_prefix(prefix.size());
  uint32_t number = 0;
  const auto [end, ec] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (ec != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return number;
}

}  // namespace

const AttachedState* Device::attached() const {
  if (!bpf || !bpf->prog_id || !state || !state->attached) return nullptr;
  return state->attached->prog_id == bpf->prog_id ? &*state->attached : nullptr;
}

std::vector<uint32_t> device_ids() {
  std::vector<uint32_t> ids;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator("/sys/class/ublk-char", ec))
    if (auto id = number_after(entry.path().filename().string(), "ublkc"))
      ids.push_back(*id);
  std::ranges::sort(ids);
  return ids;
}

namespace {

// Of a device whose parameters the driver does not tell.
void fill_from_sysfs(ublk_params& params, uint32_t dev_id) {
  const std::string disk = fmt("/sys/block/ublkb{}", dev_id);
  params.types = UBLK_PARAM_TYPE_BASIC;
  params.basic.dev_sectors = read_number(disk + "/size").value_or(0);
  const uint64_t block =
      read_number(disk + "/queue/logical_block_size").value_or(512);
  params.basic.logical_bs_shift =
      static_cast<__u8>(std::countr_zero(block ? block : 512));
  params.basic.max_sectors = static_cast<__u32>(
      read_number(disk + "/queue/max_hw_sectors_kb").value_or(0) * 2);
  if (read_number(disk + "/ro").value_or(0))
    params.basic.attrs |= UBLK_ATTR_READ_ONLY;
}

// What the driver says, or why it says nothing.
template <typename T>
Result<std::optional<T>> unless_stuck(Device& device, Result<T> told) {
  if (told) return std::optional<T>(*told);
  if (told.error().code() != ETIMEDOUT)
    return std::unexpected(std::move(told).error());
  if (!device.stuck) device.stuck = std::move(told).error();
  return std::nullopt;
}

}  // namespace

Result<Device> describe(Control& control, const StateStore& states,
                        uint32_t dev_id, Servers& servers) {
  Device device;
  device.info = TRY(control.info(dev_id));
  const auto params = TRY(unless_stuck(device, control.params(dev_id)));
  if (params)
    device.params = *params;
  else
    fill_from_sysfs(device.params, dev_id);
  device.server = servers.stats(device.info);
  if (!device.server) device.info.ublksrv_pid = -1;
  auto state = states.load(dev_id);
  if (state) {
    device.state = std::move(*state);
  } else if (state.error().code() != ENOENT && state.error().code() != EACCES) {
    device.state_error = std::move(state).error().in(device_name(dev_id));
  }
  if (device.info.flags & UBLK_F_BPF && !device.stuck) {
    auto info = control.bpf_info(dev_id);
    // Another tree's driver has a flag of this name that means something else.
    if (info || info.error().code() != EOPNOTSUPP)
      device.bpf = TRY(unless_stuck(device, std::move(info)));
  }
  return device;
}

Result<Device> describe(Control& control, const StateStore& states,
                        uint32_t dev_id) {
  Servers servers;
  return describe(control, states, dev_id, servers);
}

std::vector<QueueThread> queue_threads(pid_t server, uint32_t dev_id,
                                       uint16_t nr_hw_queues) {
  std::vector<QueueThread> queues;
  const auto threads = threads_of(server);
  for (uint16_t q = 0; q < nr_hw_queues; q++) {
    const auto it = std::ranges::find(threads, queue_thread_name(dev_id, q),
                                      &ThreadInfo::name);
    if (it == threads.end()) continue;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (::sched_getaffinity(it->tid, sizeof(cpus), &cpus) == 0)
      queues.push_back({q, it->tid, cpus_of(cpus)});
  }
  return queues;
}

Result<DeviceDetails> describe_closely(Control& control,
                                       const StateStore& states,
                                       uint32_t dev_id) {
  DeviceDetails details{.device = TRY(describe(control, states, dev_id))};
  const ublksrv_ctrl_dev_info& info = details.device.info;
  for (uint16_t q = 0; q < info.nr_hw_queues && !details.device.stuck; q++)
    details.queue_cpus.push_back(
        cpus_of(TRY(control.queue_affinity(dev_id, q))));
  if (details.device.server)
    details.threads =
        queue_threads(info.ublksrv_pid, dev_id, info.nr_hw_queues);
  if (const auto& state = details.device.state)
    details.layers = layer_uses(states, *state);
  if (const auto& bpf = details.device.bpf; bpf && bpf->prog_id) {
    details.maps = maps_of_attached(*bpf).value_or(std::vector<MapInfo>());
    const AttachedState* attached = details.device.attached();
    details.map_pins =
        pinned_paths(attached ? attached->pins : Pins{}, details.maps);
  }
  return details;
}

}  // namespace ublk
