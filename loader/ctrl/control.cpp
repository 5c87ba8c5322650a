// SPDX-License-Identifier: MIT
#include "ctrl/control.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>

#include "sys/process.h"

namespace ublk {

namespace {

constexpr const char* kWhoMay =
    "this needs root (CAP_SYS_ADMIN), or an unprivileged device of one's own";
constexpr const char* kControlPath = "/dev/ublk-control";

Error explain_open(Error error) {
  switch (error.code()) {
    case ENOENT:
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

}  // namespace

Result<std::unique_ptr<ControlDevice>> ControlDevice::open() {
  auto fd = UniqueFd::open(kControlPath, O_RDWR);
  if (!fd) return std::unexpected(explain_open(std::move(fd).error()));
  Ring ring = TRY_IN(kControlPath, Ring::for_control());
  return std::unique_ptr<ControlDevice>(
      new ControlDevice(std::move(*fd), std::move(ring)));
}

// The kernel does these commands in a worker thread that it keeps for the
// thread that submitted them, and that wakes up every five seconds. A server
// would have it for ever, so they come from a thread that ends.
int ControlDevice::execute(const ControlCommand& command,
                           const ControlTick& tick) {
  int ret = 0;
  try {
    std::thread([&] { ret = execute_here(command, tick); }).join();
  } catch (const std::system_error&) {  // no thread to be had
    ret = execute_here(command, tick);
  }
  return ret;
}

int ControlDevice::execute_here(const ControlCommand& command,
                                const ControlTick& tick) {
  const bool of_a_device =
      command.op != UBLK_U_CMD_ADD_DEV && command.op != UBLK_U_CMD_GET_FEATURES;
  if (of_a_device && !is_admin()) return execute_by_path(command, tick);
  ublksrv_ctrl_cmd cmd{};
  cmd.dev_id = command.dev_id;
  cmd.queue_id = static_cast<__u16>(-1);
  cmd.addr = reinterpret_cast<uintptr_t>(command.arg);
  cmd.len = command.arg_bytes;
  cmd.data[0] = command.data;
  const int ret = submit(cmd, command.op, tick);
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

// The path comes before the argument, in the same memory.
int ControlDevice::execute_by_path(const ControlCommand& command,
                                   const ControlTick& tick) {
  const std::string path = char_path(command.dev_id);
  std::string memory = path;
  memory.append(static_cast<const char*>(command.arg), command.arg_bytes);
  ublksrv_ctrl_cmd cmd{};
  cmd.dev_id = command.dev_id;
  cmd.queue_id = static_cast<__u16>(-1);
  cmd.addr = reinterpret_cast<uintptr_t>(memory.data());
  cmd.len = static_cast<__u16>(memory.size());
  cmd.dev_path_len = static_cast<__u16>(path.size());
  cmd.data[0] = command.data;
  const bool asks = command.op == UBLK_U_CMD_GET_DEV_INFO;
  const int ret =
      submit(cmd, asks ? uint32_t{UBLK_U_CMD_GET_DEV_INFO2} : command.op, tick);
  if (ret >= 0)
    std::copy_n(memory.data() + path.size(), command.arg_bytes,
                static_cast<char*>(command.arg));
  return ret;
}

int ControlDevice::submit(const ublksrv_ctrl_cmd& cmd, uint32_t op,
                          const ControlTick& tick) {
  io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
  // Twice as large as its type: the command has the second half too.
  std::fill_n(reinterpret_cast<volatile char*>(sqe), 2 * sizeof(*sqe), 0);
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = fd_.get();
  sqe->cmd_op = op;
  *reinterpret_cast<ublksrv_ctrl_cmd*>(sqe->cmd) = cmd;
  int ret = io_uring_submit(ring_.get());
  if (ret < 0) return ret;

  // The command refers to memory of the caller: it has to be waited for.
  for (;;) {
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec period{.tv_sec = 0,
                             .tv_nsec = kTickPeriod.count() * 1'000'000};
    ret = tick ? io_uring_wait_cqe_timeout(ring_.get(), &cqe, &period)
               : io_uring_wait_cqe(ring_.get(), &cqe);
    if (ret == 0) {
      ret = cqe->res;
      io_uring_cqe_seen(ring_.get(), cqe);
      return ret;
    }
    if (ret == -ETIME)
      tick();
    else if (ret != -EINTR && ret != -EAGAIN)
      return ret;
  }
}

Result<Control> Control::open() { return Control(TRY(ControlDevice::open())); }

Result<int> Control::run(std::string_view name, const ControlCommand& command,
                         const ControlTick& tick) {
  const int ret = channel_->execute(command, tick);
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

Result<ublk_bpf_info> Control::bpf_info(uint32_t dev_id) {
  ublk_bpf_info info{};
  TRY(run("getting its BPF counters", {.op = UBLK_U_CMD_GET_BPF_INFO,
                                       .dev_id = dev_id,
                                       .arg = &info,
                                       .arg_bytes = sizeof(info)}));
  return info;
}

}  // namespace ublk
