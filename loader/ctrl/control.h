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
#include <string>
#include <vector>

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
// Without CAP_SYS_ADMIN it is good for adding unprivileged devices, and for
// those whose /dev/ublkcN the process may read and write: the driver has to be
// told that path with each command (<linux/ublk_cmd.h>,
// UBLK_F_UNPRIVILEGED_DEV).
class ControlDevice final : public ControlChannel {
 public:
  // ENOENT: no ublk module. EACCES, EPERM: no right to it.
  static Result<std::unique_ptr<ControlDevice>> open();
  int execute(const ControlCommand& command, const ControlTick& tick) override;

 private:
  ControlDevice(UniqueFd fd, Ring ring)
      : fd_(std::move(fd)), ring_(std::move(ring)) {}

  int execute_here(const ControlCommand& command, const ControlTick& tick);
  int execute_by_path(const ControlCommand& command, const ControlTick& tick);
  bool is_unprivileged(uint32_t dev_id);
  int submit(const ublksrv_ctrl_cmd& cmd, uint32_t op, const ControlTick& tick);

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
  // The same, unless somebody has the block device open: EBUSY. EOPNOTSUPP:
  // the driver has no UBLK_F_SAFE_STOP_DEV.
  Result<void> stop_unused(uint32_t dev_id, const ControlTick& tick = {});
  // Removes /dev/ublkcN; waits until the server has closed it.
  Result<void> remove(uint32_t dev_id, const ControlTick& tick = {});
  // Begins that, and does not wait.
  Result<void> begin_remove(uint32_t dev_id);
  // Takes the device from its server, whose queues end once what they have in
  // hand is done; I/O waits. Waits until each queue has a tag to spare.
  // EOPNOTSUPP: was added without UBLK_F_QUIESCE.
  Result<void> quiesce(uint32_t dev_id);
  // Of a device that is started. The driver takes any size.
  Result<void> set_size(uint32_t dev_id, uint64_t sectors);
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
// UBLK_F_*, in lower case and without their prefix, in order of their bits; one
// that this program does not know as "bit N".
std::vector<std::string> feature_names(uint64_t flags);
// "none", "requeue", "reissue", "fail_io".
std::string_view recovery_name(uint64_t flags);
// enum ublk_bpf_reason, in lower case and without its prefix.
std::string reason_name(uint32_t reason);
// UBLK_IO_OP_*, in lower case and without its prefix.
std::string op_name(uint8_t op);

}  // namespace ublk
