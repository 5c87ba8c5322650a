// SPDX-License-Identifier: MIT
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/ublk_cmd.h>
#include <sched.h>
#include <ublk_bpf.h>

#include <chrono>
#include <cstdint>
#include <functional>

#include "sys/error.h"
#include "sys/ring.h"
#include "sys/unique_fd.h"

namespace ublk {

// One control command, as struct ublksrv_ctrl_cmd has it.
struct ControlCommand {
  uint32_t op;  // UBLK_U_CMD_*
  uint32_t dev_id;
  void* arg = nullptr;  // ->addr
  uint16_t arg_bytes = 0;
  uint64_t data = 0;  // ->data[0]
};

// Called about every `kTickPeriod` while a command is under way.
using ControlTick = std::function<void()>;
inline constexpr std::chrono::milliseconds kTickPeriod{250};

// What answers control commands: /dev/ublk-control, or a fake in tests.
class ControlChannel {
 public:
  virtual ~ControlChannel() = default;
  // What the kernel answered: 0 or more, or a negative errno.
  virtual int execute(const ControlCommand& command,
                      const ControlTick& tick) = 0;
};

// /dev/ublk-control and a ring for it. Destruction does nothing to a device.
class ControlDevice final : public ControlChannel {
 public:
  // ENOENT: no ublk module. EACCES, EPERM: no root.
  static Result<std::unique_ptr<ControlDevice>> open();
  int execute(const ControlCommand& command, const ControlTick& tick) override;

 private:
  ControlDevice(UniqueFd fd, Ring ring)
      : fd_(std::move(fd)), ring_(std::move(ring)) {}

  int execute_here(const ControlCommand& command, const ControlTick& tick);

  UniqueFd fd_;
  Ring ring_;
};

// The commands, typed. Each error names the device and the command. The
// commands' meaning and errors are documented in <linux/ublk_cmd.h> and
// <ublk_bpf.h>. Not for use by several threads at once.
class Control {
 public:
  explicit Control(std::unique_ptr<ControlChannel> channel)
      : channel_(std::move(channel)) {}
  static Result<Control> open();

  // UBLK_F_* that the driver knows; 0 before 6.5, which cannot be asked.
  Result<uint64_t> features();
  // Creates /dev/ublkcN. `info` is filled in with what was agreed on.
  Result<void> add(ublksrv_ctrl_dev_info& info);
  Result<void> set_params(uint32_t dev_id, ublk_params& params);
  Result<ublk_params> params(uint32_t dev_id);
  Result<ublksrv_ctrl_dev_info> info(uint32_t dev_id);
  Result<cpu_set_t> queue_affinity(uint32_t dev_id, uint16_t q_id);
  // Creates /dev/ublkbN; waits until every tag of every queue was fetched.
  Result<void> start(uint32_t dev_id, pid_t server);
  // Removes /dev/ublkbN; waits for I/O in flight.
  Result<void> stop(uint32_t dev_id, const ControlTick& tick = {});
  // Removes /dev/ublkcN; waits until the server has closed it.
  Result<void> remove(uint32_t dev_id, const ControlTick& tick = {});
  Result<void> start_recovery(uint32_t dev_id);
  Result<void> end_recovery(uint32_t dev_id, pid_t server);

  Result<void> attach_bpf(uint32_t dev_id, const ublk_bpf_attach& attach);
  Result<void> detach_bpf(uint32_t dev_id);
  Result<ublk_bpf_info> bpf_info(uint32_t dev_id);

 private:
  Result<int> run(std::string_view name, const ControlCommand& command,
                  const ControlTick& tick = {});

  std::unique_ptr<ControlChannel> channel_;
};

// "ublkb3", as errors name a device.
std::string device_name(uint32_t dev_id);
inline std::string block_path(uint32_t dev_id) {
  return fmt("/dev/ublkb{}", dev_id);
}
inline std::string char_path(uint32_t dev_id) {
  return fmt("/dev/ublkc{}", dev_id);
}
// "live", "quiesced", "dead", "fail_io".
std::string_view state_name(uint16_t state);
// "none", "requeue", "reissue", "fail_io".
std::string_view recovery_name(uint64_t flags);
// enum ublk_bpf_reason, in lower case and without its prefix.
std::string reason_name(uint32_t reason);
// UBLK_IO_OP_*, in lower case and without its prefix.
std::string op_name(uint8_t op);

}  // namespace ublk
