// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ctrl/control.h"
#include "device/clone.h"
#include "device/server_process.h"
#include "device/state.h"
#include "prog/maps.h"
#include "sys/error.h"

namespace ublk {

// Everything that is known about a device.
struct Device {
  ublksrv_ctrl_dev_info info{};
  ublk_params params{};
  std::optional<DeviceState> state;   // of our devices
  std::optional<Error> state_error;   // why there is one that cannot be read
  std::optional<ServerStats> server;  // of a server that lives
  std::optional<ublk_bpf_info> bpf;   // of a device added with UBLK_F_BPF
  // Why there is less here than there could be: the driver does not answer
  // while another command on the device waits.
  std::optional<Error> stuck;

  bool read_only() const { return params.basic.attrs & UBLK_ATTR_READ_ONLY; }
  uint32_t block_bytes() const { return 1U << params.basic.logical_bs_shift; }
  uint64_t size_bytes() const { return params.basic.dev_sectors << 9; }
  // Of the program that is attached, if this program attached it.
  const AttachedState* attached() const;
};

// Numbers of all ublk devices, from sysfs, in order.
std::vector<uint32_t> device_ids();

// ENODEV: there is none. Of a device that is stuck, what can be known. `info`
// names no other process than its server.
Result<Device> describe(Control& control, const StateStore& states,
                        uint32_t dev_id, Servers& servers);
Result<Device> describe(Control& control, const StateStore& states,
                        uint32_t dev_id);

// The thread that serves a queue of a device, and where it may run.
struct QueueThread {
  uint16_t q_id = 0;
  pid_t tid = 0;
  std::vector<uint16_t> cpus;
};
// Of our servers: other tools name their threads differently.
std::vector<QueueThread> queue_threads(pid_t server, uint32_t dev_id,
                                       uint16_t nr_hw_queues);
struct DeviceDetails {
  Device device;
  std::vector<std::vector<uint16_t>> queue_cpus{};  // the driver's, by q_id
  std::vector<QueueThread> threads{};
  // Of the attached program; none for a user who may not see them.
  std::vector<MapInfo> maps{};
  std::vector<std::string> map_pins{};            // their paths, "" without
  std::vector<std::optional<LayerUse>> layers{};  // of a clone
};
Result<DeviceDetails> describe_closely(Control& control,
                                       const StateStore& states,
                                       uint32_t dev_id);

}  // namespace ublk
