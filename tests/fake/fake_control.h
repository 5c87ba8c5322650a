// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "ctrl/control.h"

namespace ublk::test {

// Answers control commands as a driver with these devices would, and keeps
// the order in which they came.
class FakeControl final : public ControlChannel {
 public:
  struct Device {
    ublksrv_ctrl_dev_info info{};
    ublk_params params{};
    ublk_bpf_info bpf{};
  };

  int execute(const ControlCommand& command, const ControlTick&) override {
    calls.push_back(command.op);
    if (auto it = fails.find(command.op); it != fails.end()) return it->second;
    if (command.op == UBLK_U_CMD_GET_FEATURES)
      return put(command, &features, sizeof(features));
    auto it = devices.find(command.dev_id);
    if (it == devices.end()) return -ENODEV;
    Device& device = it->second;
    switch (command.op) {
      case UBLK_U_CMD_GET_DEV_INFO:
        return put(command, &device.info, sizeof(device.info));
      case UBLK_U_CMD_GET_PARAMS:
        return put(command, &device.params, sizeof(device.params));
      case UBLK_U_CMD_GET_BPF_INFO:
        if (!(device.info.flags & UBLK_F_BPF)) return -EOPNOTSUPP;
        return put(command, &device.bpf, sizeof(device.bpf));
      case UBLK_U_CMD_STOP_DEV:
        device.info.state = UBLK_S_DEV_DEAD;
        return 0;
      case UBLK_U_CMD_UPDATE_SIZE:
        device.params.basic.dev_sectors = command.data;
        return 0;
      case UBLK_U_CMD_DEL_DEV:
        devices.erase(it);
        return 0;
      case UBLK_U_CMD_DRAIN_BPF:
        return device.bpf.prog_id ? 0 : -ENOENT;
      case UBLK_U_CMD_DETACH_BPF:
        return device.bpf.prog_id ? (device.bpf.prog_id = 0, 0) : -ENOENT;
      default:
        return -EOPNOTSUPP;
    }
  }

  Device& add(uint32_t dev_id, uint64_t flags = 0) {
    Device& device = devices[dev_id];
    device.info.dev_id = dev_id;
    device.info.nr_hw_queues = 2;
    device.info.queue_depth = 64;
    device.info.max_io_buf_bytes = 1 << 20;
    device.info.state = UBLK_S_DEV_LIVE;
    device.info.ublksrv_pid = -1;
    device.info.flags = flags;
    device.params.types = UBLK_PARAM_TYPE_BASIC;
    device.params.basic.logical_bs_shift = 12;
    device.params.basic.dev_sectors = 2048;
    device.params.basic.max_sectors = 2048;
    return device;
  }

  uint64_t features = 0;
  std::map<uint32_t, Device> devices;
  std::map<uint32_t, int> fails;  // command -> what it answers
  std::vector<uint32_t> calls;

 private:
  static int put(const ControlCommand& command, const void* from, size_t size) {
    if (command.arg_bytes < size) return -EINVAL;
    std::memcpy(command.arg, from, size);
    return 0;
  }
};

}  // namespace ublk::test
