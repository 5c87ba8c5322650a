// SPDX-License-Identifier: MIT
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>
#include <sched.h>
#include <ublk_bpf.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ctrl/executor.h"
#include "sys/error.h"
#include "sys/ublk_cmd.h"
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

// What a command that is under way does, as far as its caller can see.
enum class Meanwhile {
  waits,
  moves,    // what it waits for makes progress: its deadline begins anew
  give_up,  // it is not to be waited for any more
};
// Called about every `kTickPeriod` while a command is under way.
using ControlTick = std::function<Meanwhile()>;
inline constexpr std::chrono::milliseconds kTickPeriod{250};

struct ControlOptions {
  // How long a command may take. The kernel itself knows no end.
  std::chrono::milliseconds deadline = kDeadline;
  // A descriptor that stays open while a command is under way; -1 is none.
  int keep = -1;

  static constexpr std::chrono::milliseconds kDeadline{30'000};
};

// What answers control commands: /dev/ublk-control, or a fake in tests.
class ControlChannel {
 public:
  virtual ~ControlChannel() = default;
  // What the kernel answered: 0 or more, or a negative errno. -ETIME: it has
  // not answered within the deadline, -ECANCELED: the tick has given up. Then
  // the command may still be under way, or be done later.
  virtual int execute(const ControlCommand& command,
                      const ControlTick& tick) = 0;
  virtual std::chrono::milliseconds deadline() const { return {}; }
  virtual void set_deadline(std::chrono::milliseconds) {}
  // The kernel's function in which the last command has not ended.
  virtual std::string waited_in() const { return {}; }
  // Nothing more is to be executed for a while.
  virtual void rest() {}
  virtual void keep_nothing() {}
};

// /dev/ublk-control and a process that asks it. Destruction does nothing to a
// device. Without CAP_SYS_ADMIN it is good for adding unprivileged devices, and
// for those whose /dev/ublkcN the process may read and write: the driver has to
// be told that path with each command (<linux/ublk_cmd.h>,
// UBLK_F_UNPRIVILEGED_DEV).
class ControlDevice final : public ControlChannel {
 public:
  // ENOENT: no ublk module. EACCES, EPERM: no right to it.
  static Result<std::unique_ptr<ControlDevice>> open(
      const ControlOptions& options);
  int execute(const ControlCommand& command, const ControlTick& tick) override;
  std::chrono::milliseconds deadline() const override {
    return options_.deadline;
  }
  void set_deadline(std::chrono::milliseconds deadline) override {
    options_.deadline = deadline;
  }
  std::string waited_in() const override { return waited_in_; }
  void rest() override { executor_.reset(); }
  void keep_nothing() override { options_.keep = -1; }

 private:
  ControlDevice(UniqueFd fd, const ControlOptions& options)
      : fd_(std::move(fd)), options_(options) {}

  int execute_by_path(const ControlCommand& command, const ControlTick& tick);
  bool is_unprivileged(uint32_t dev_id);
  Result<void> be_ready(ExecutorFiles files);
  int submit(const ControlCommand& command, std::string_view path,
             const ControlTick& tick);
  int wait(const ControlTick& tick);

  UniqueFd fd_;
  ControlOptions options_;
  std::optional<Executor> executor_;
  std::string waited_in_;
};

// The commands, typed. Each error names the device and the command. The
// commands' meaning and errors are documented in <linux/ublk_cmd.h> and
// <ublk_bpf.h>. ETIMEDOUT: the kernel has not done it within the deadline; the
// error says what it waits for. Not for use by several threads at once.
class Control {
 public:
  explicit Control(std::unique_ptr<ControlChannel> channel)
      : channel_(std::move(channel)) {}
  static Result<Control> open(const ControlOptions& options = {});

  std::chrono::milliseconds deadline() const { return channel_->deadline(); }
  void set_deadline(std::chrono::milliseconds deadline) {
    channel_->set_deadline(deadline);
  }
  // For what only shows things: a device that does not answer is shown as such
  // after two seconds, and does not hold up the others.
  void only_glance() {
    set_deadline(std::min(deadline(), std::chrono::milliseconds{2000}));
  }
  // Nothing more is to be done for a while: keeps no process.
  void rest() { channel_->rest(); }
  // The descriptor that was to be kept is closed.
  void keep_nothing() { channel_->keep_nothing(); }

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
  // Returns when what the program planned before is done; it goes on.
  Result<void> drain_bpf(uint32_t dev_id);
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
