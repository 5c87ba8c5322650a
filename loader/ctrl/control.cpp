// SPDX-License-Identifier: MIT
#include "ctrl/control.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "sys/process.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr const char* kWhoMay =
    "this needs root (CAP_SYS_ADMIN), or an unprivileged device of one's own";
constexpr const char* kControlPath = "/dev/ublk-control";

Error explain_open(Error error) {
  switch (error.code()) {
    case ENOENT:
      if (::access("/sys/class/misc/ublk-control", F_OK) == 0)
        return std::move(error).hint(
            "the driver is there, but this /dev is a private one (a "
            "container's?): give it the host's, a devtmpfs");
      [[fallthrough]];
    case ENXIO:
    case ENODEV:
      return std::move(error).hint("no ublk driver: modprobe ublk_drv");
    case EACCES:
    case EPERM:
      return std::move(error).hint(kWhoMay);
    default:
      return error;
  }
}

Error explain(Error error, const ControlCommand& command) {
  if (error.code() == EPERM || error.code() == EACCES)
    return std::move(error).hint(kWhoMay);
  if (error.code() == ENODEV && command.op != UBLK_U_CMD_ATTACH_BPF)
    return std::move(error).hint("ublk-bpf list shows the devices");
  return error;
}

// What a command that does not end waits for.
std::string waits_for(const ControlCommand& command) {
  switch (command.op) {
    case UBLK_U_CMD_ADD_DEV:
    case UBLK_U_CMD_DEL_DEV_ASYNC:
      return "the driver, which adds and deletes one device at a time";
    case UBLK_U_CMD_DEL_DEV:
      return fmt(
          "whoever has {} or {} open to close it, or for the driver, "
          "which adds and deletes one device at a time",
          char_path(command.dev_id), block_path(command.dev_id));
    case UBLK_U_CMD_START_DEV:
    case UBLK_U_CMD_END_USER_RECOVERY:
      return "the server's queues to fetch all tags, or the first reads";
    case UBLK_U_CMD_STOP_DEV:
    case UBLK_U_CMD_TRY_STOP_DEV:
      return "its server, or its program, to complete the I/O in flight";
    case UBLK_U_CMD_QUIESCE_DEV:
      return "each queue to have a tag without a request";
    case UBLK_U_CMD_ATTACH_BPF:
    case UBLK_U_CMD_DETACH_BPF:
      return "the I/O that the program that was attached has redirected";
    case UBLK_U_CMD_DRAIN_BPF:
      return "the I/O that the program had redirected before";
    default:
      return "another command on this device to end";
  }
}

std::string in_flight(uint32_t dev_id) {
  std::istringstream words(
      read_text(fmt("/sys/block/ublkb{}/inflight", dev_id)).value_or(""));
  uint64_t reads = 0, writes = 0;
  if (!(words >> reads >> writes) || reads + writes == 0) return "";
  return fmt(", requests in flight: {}", reads + writes);
}

// The name of the device is put before it.
Error late(std::string_view name, const ControlCommand& command,
           std::chrono::milliseconds deadline, const std::string& where) {
  std::string what =
      fmt("{}: has not ended after {} s: it waits for {}", name,
          std::chrono::duration<double>(deadline).count(), waits_for(command));
  if (!where.empty()) what += fmt(" (in {})", where);
  what += in_flight(command.dev_id);
  Error error = Error::plain(ETIMEDOUT, std::move(what));
  if (command.op == UBLK_U_CMD_QUIESCE_DEV)
    return std::move(error).hint(
        fmt("new I/O waits now; ublk-bpf quiesce -n {} again goes on with it",
            command.dev_id));
  if (command.op == UBLK_U_CMD_DRAIN_BPF)
    return std::move(error).hint(
        "nothing was changed; --deadline SECONDS waits longer");
  return std::move(error).hint(
      "--deadline SECONDS waits longer; what it leaves, once "
      "it has ended, ublk-bpf gc clears");
}

}  // namespace

Result<std::unique_ptr<ControlDevice>> ControlDevice::open(
    const ControlOptions& options) {
  auto fd = UniqueFd::open(kControlPath, O_RDWR);
  if (!fd) return std::unexpected(explain_open(std::move(fd).error()));
  std::unique_ptr<ControlDevice> device(
      new ControlDevice(std::move(*fd), options));
  TRY_IN(kControlPath, device->be_ready(ExecutorFiles::control));
  return device;
}

Result<void> ControlDevice::be_ready(ExecutorFiles files) {
  if (!executor_)
    executor_.emplace(TRY(Executor::start(fd_.get(), files, options_.keep)));
  return {};
}

int ControlDevice::execute(const ControlCommand& command,
                           const ControlTick& tick) {
  const bool of_a_device =
      command.op != UBLK_U_CMD_ADD_DEV && command.op != UBLK_U_CMD_GET_FEATURES;
  if (of_a_device && !is_admin()) return execute_by_path(command, tick);
  const int ret = submit(command, "", tick);
  // Without a path the driver does nothing to an unprivileged device, whoever
  // asks.
  if (ret == negative(EINVAL) && of_a_device && is_unprivileged(command.dev_id))
    return execute_by_path(command, tick);
  return ret;
}

bool ControlDevice::is_unprivileged(uint32_t dev_id) {
  ublksrv_ctrl_dev_info info{};
  const int ret = execute_by_path({.op = UBLK_U_CMD_GET_DEV_INFO,
                                   .dev_id = dev_id,
                                   .arg = &info,
                                   .arg_bytes = sizeof(info)},
                                  {});
  return ret >= 0 && (info.flags & UBLK_F_UNPRIVILEGED_DEV);
}

int ControlDevice::execute_by_path(const ControlCommand& command,
                                   const ControlTick& tick) {
  ControlCommand by_path = command;
  if (command.op == UBLK_U_CMD_GET_DEV_INFO)
    by_path.op = UBLK_U_CMD_GET_DEV_INFO2;
  return submit(by_path, char_path(command.dev_id), tick);
}

// The path comes before the argument, in the same memory.
int ControlDevice::submit(const ControlCommand& command, std::string_view path,
                          const ControlTick& tick) {
  // Its argument has descriptors in it.
  const bool needs_files = command.op == UBLK_U_CMD_ATTACH_BPF;
  if (needs_files) rest();
  if (auto ready =
          be_ready(needs_files ? ExecutorFiles::all : ExecutorFiles::control);
      !ready)
    return negative(ready.error().code());
  char* const memory = executor_->memory();
  char* const arg = std::copy(path.begin(), path.end(), memory);
  std::copy_n(static_cast<const char*>(command.arg), command.arg_bytes, arg);
  ublksrv_ctrl_cmd cmd{};
  cmd.dev_id = command.dev_id;
  cmd.queue_id = static_cast<__u16>(-1);
  cmd.len = static_cast<__u16>(path.size() + command.arg_bytes);
  if (cmd.len) cmd.addr = reinterpret_cast<uintptr_t>(memory);
  cmd.dev_path_len = static_cast<__u16>(path.size());
  cmd.data[0] = command.data;
  executor_->begin(command.op, cmd);
  const int ret = wait(tick);
  if (ret >= 0)
    std::copy_n(arg, command.arg_bytes, static_cast<char*>(command.arg));
  if (needs_files) rest();
  return ret;
}

int ControlDevice::wait(const ControlTick& tick) {
  auto since = steady_clock::now();
  waited_in_.clear();
  for (;;) {
    const auto left = options_.deadline - (steady_clock::now() - since);
    const auto period = std::chrono::ceil<std::chrono::milliseconds>(left);
    if (const auto ret =
            executor_->wait(std::clamp(period, 0ms, kTickPeriod))) {
      // Somebody may have killed it, or only this command.
      if (*ret == negative(EINTR)) rest();
      return *ret;
    }
    const Meanwhile what = tick ? tick() : Meanwhile::waits;
    if (what == Meanwhile::moves) since = steady_clock::now();
    const bool late = steady_clock::now() - since >= options_.deadline;
    if (what != Meanwhile::give_up && !late) continue;
    waited_in_ = executor_->waits_in();
    rest();
    return negative(what == Meanwhile::give_up ? ECANCELED : ETIME);
  }
}

Result<Control> Control::open(const ControlOptions& options) {
  return Control(TRY(ControlDevice::open(options)));
}

Result<int> Control::run(std::string_view name, const ControlCommand& command,
                         const ControlTick& tick) {
  const int ret = channel_->execute(command, tick);
  if (ret == negative(ETIME)) {
    auto error =
        late(name, command, channel_->deadline(), channel_->waited_in());
    return std::unexpected(
        command.dev_id == ~0U
            ? std::move(error)
            : std::move(error).in(device_name(command.dev_id)));
  }
  if (const int code = errno_of(ret)) {
    auto error = Error::sys(code, std::string(name));
    if (command.op != UBLK_U_CMD_GET_FEATURES)
      error = std::move(error).in(device_name(command.dev_id));
    return std::unexpected(explain(std::move(error), command));
  }
  return ret;
}

Result<uint64_t> Control::features() {
  uint64_t features = 0;
  auto done =
      run("asking ublk for its features", {.op = UBLK_U_CMD_GET_FEATURES,
                                           .dev_id = ~0U,
                                           .arg = &features,
                                           .arg_bytes = UBLK_FEATURES_LEN});
  if (!done &&
      (done.error().code() == EOPNOTSUPP || done.error().code() == EINVAL))
    return 0;
  if (!done) return std::unexpected(std::move(done).error());
  return features;
}

Result<void> Control::add(ublksrv_ctrl_dev_info& info) {
  TRY(run("add", {.op = UBLK_U_CMD_ADD_DEV,
                  .dev_id = info.dev_id,
                  .arg = &info,
                  .arg_bytes = sizeof(info)}));
  return {};
}

Result<void> Control::set_params(uint32_t dev_id, ublk_params& params) {
  params.len = sizeof(params);
  TRY(run("setting the parameters", {.op = UBLK_U_CMD_SET_PARAMS,
                                     .dev_id = dev_id,
                                     .arg = &params,
                                     .arg_bytes = sizeof(params)}));
  return {};
}

Result<ublk_params> Control::params(uint32_t dev_id) {
  ublk_params params{};
  params.len = sizeof(params);
  TRY(run("getting the parameters", {.op = UBLK_U_CMD_GET_PARAMS,
                                     .dev_id = dev_id,
                                     .arg = &params,
                                     .arg_bytes = sizeof(params)}));
  return params;
}

Result<ublksrv_ctrl_dev_info> Control::info(uint32_t dev_id) {
  ublksrv_ctrl_dev_info info{};
  TRY(run("looking it up", {.op = UBLK_U_CMD_GET_DEV_INFO,
                            .dev_id = dev_id,
                            .arg = &info,
                            .arg_bytes = sizeof(info)}));
  return info;
}

Result<cpu_set_t> Control::queue_affinity(uint32_t dev_id, uint16_t q_id) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  TRY(run("getting the CPUs of a queue", {.op = UBLK_U_CMD_GET_QUEUE_AFFINITY,
                                          .dev_id = dev_id,
                                          .arg = &cpus,
                                          .arg_bytes = sizeof(cpus),
                                          .data = q_id}));
  return cpus;
}

Result<void> Control::start(uint32_t dev_id, pid_t server) {
  TRY(run("start", {.op = UBLK_U_CMD_START_DEV,
                    .dev_id = dev_id,
                    .data = static_cast<uint64_t>(server)}));
  return {};
}

Result<void> Control::stop(uint32_t dev_id, const ControlTick& tick) {
  TRY(run("stop", {.op = UBLK_U_CMD_STOP_DEV, .dev_id = dev_id}, tick));
  return {};
}

Result<void> Control::remove(uint32_t dev_id, const ControlTick& tick) {
  TRY(run("delete", {.op = UBLK_U_CMD_DEL_DEV, .dev_id = dev_id}, tick));
  return {};
}

Result<void> Control::stop_unused(uint32_t dev_id, const ControlTick& tick) {
  TRY(run("stop unless it is in use",
          {.op = UBLK_U_CMD_TRY_STOP_DEV, .dev_id = dev_id}, tick));
  return {};
}

Result<void> Control::begin_remove(uint32_t dev_id) {
  TRY(run("delete", {.op = UBLK_U_CMD_DEL_DEV_ASYNC, .dev_id = dev_id}));
  return {};
}

Result<void> Control::quiesce(uint32_t dev_id) {
  // data: milliseconds to wait; after a wait in vain the device would stay
  // half quiesced. 0 is for ever, or until this process is told to end.
  TRY(run("quiesce",
          {.op = UBLK_U_CMD_QUIESCE_DEV, .dev_id = dev_id, .data = 0}));
  return {};
}

Result<void> Control::set_size(uint32_t dev_id, uint64_t sectors) {
  TRY(run("setting its size",
          {.op = UBLK_U_CMD_UPDATE_SIZE, .dev_id = dev_id, .data = sectors}));
  return {};
}

Result<void> Control::start_recovery(uint32_t dev_id) {
  TRY(run("start of recovery",
          {.op = UBLK_U_CMD_START_USER_RECOVERY, .dev_id = dev_id}));
  return {};
}

Result<void> Control::end_recovery(uint32_t dev_id, pid_t server) {
  TRY(run("end of recovery", {.op = UBLK_U_CMD_END_USER_RECOVERY,
                              .dev_id = dev_id,
                              .data = static_cast<uint64_t>(server)}));
  return {};
}

Result<void> Control::attach_bpf(uint32_t dev_id,
                                 const ublk_bpf_attach& attach) {
  ublk_bpf_attach arg = attach;
  TRY(run("attach", {.op = UBLK_U_CMD_ATTACH_BPF,
                     .dev_id = dev_id,
                     .arg = &arg,
                     .arg_bytes = sizeof(arg)}));
  return {};
}

Result<void> Control::detach_bpf(uint32_t dev_id) {
  TRY(run("detach", {.op = UBLK_U_CMD_DETACH_BPF, .dev_id = dev_id}));
  return {};
}

Result<void> Control::drain_bpf(uint32_t dev_id) {
  TRY(run("drain", {.op = UBLK_U_CMD_DRAIN_BPF, .dev_id = dev_id}));
  return {};
}

Result<ublk_bpf_info> Control::bpf_info(uint32_t dev_id) {
  ublk_bpf_info info{};
  TRY(run("getting its BPF counters", {.op = UBLK_U_CMD_GET_BPF_INFO,
                                       .dev_id = dev_id,
                                       .arg = &info,
                                       .arg_bytes = sizeof(info)}));
  return info;
}

}  // namespace ublk
