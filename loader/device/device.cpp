// SPDX-License-Identifier: MIT
#include "device/device.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <sstream>

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

std::optional<ServerStats> server_stats(pid_t pid, uint32_t dev_id) {
  if (!pidfd_of(pid).valid()) return std::nullopt;
  ServerStats stats{.pid = pid};
  const auto threads = threads_of(pid);
  for (const ThreadInfo& thread : threads) {
    stats.threads++;
    if (device_of_thread(thread.name) == dev_id) stats.wakeups += thread.sleeps;
  }
  // Unless /proc cannot be read, there is one or the process has ended.
  if (threads.empty() && ::access("/proc/self", F_OK) == 0) return std::nullopt;
  // With the threads that have ended: the kernel's io_uring workers come and
  // go.
  clockid_t clock;
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) == 0 &&
      ::clock_gettime(clock, &time) == 0)
    stats.cpu_ns = static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
                   static_cast<uint64_t>(time.tv_nsec);
  return stats;
}

Result<Device> describe(Control& control, const StateStore& states,
                        uint32_t dev_id) {
  Device device;
  device.info = TRY(control.info(dev_id));
  device.params = TRY(control.params(dev_id));
  device.server = server_stats(device.info.ublksrv_pid, dev_id);
  auto state = states.load(dev_id);
  if (state) {
    device.state = std::move(*state);
  } else if (state.error().code() != ENOENT && state.error().code() != EACCES) {
    device.state_error = std::move(state).error().in(device_name(dev_id));
  }
  if (device.info.flags & UBLK_F_BPF)
    device.bpf = TRY(control.bpf_info(dev_id));
  return device;
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
  for (uint16_t q = 0; q < info.nr_hw_queues; q++)
    details.queue_cpus.push_back(
        cpus_of(TRY(control.queue_affinity(dev_id, q))));
  if (details.device.server)
    details.threads =
        queue_threads(info.ublksrv_pid, dev_id, info.nr_hw_queues);
  return details;
}

}  // namespace ublk
