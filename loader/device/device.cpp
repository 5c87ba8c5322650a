// SPDX-License-Identifier: MIT
#include "device/device.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "server/queue.h"
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

// The value of a line "name:\tvalue" of /proc/PID/status.
uint64_t status_value(const std::string& status, std::string_view name) {
  const auto at = status.find(fmt("\n{}:", name));
  if (at == std::string::npos) return 0;
  const auto digits = status.find_first_of("0123456789", at);
  uint64_t value = 0;
  if (digits != std::string::npos)
    std::from_chars(status.data() + digits, status.data() + status.size(),
                    value);
  return value;
}

// How many requests of a block device have completed: reads, writes, discards
// and flushes of /sys/block/X/stat. Its other numbers change by themselves.
std::string completions(const std::string& stat_path) {
  std::istringstream words(read_text(stat_path).value_or(""));
  std::string word, all;
  for (int i = 0; words >> word; i++)
    if (i == 0 || i == 4 || i == 11 || i == 15) all += word + " ";
  return all;
}

// Notices a server that does not let its device be stopped: no request of the
// device completes for as long as `patience`.
class Watchdog {
 public:
  Watchdog(uint32_t dev_id, const UniqueFd& server,
           std::chrono::milliseconds patience)
      : stat_path_(fmt("/sys/block/ublkb{}/stat", dev_id)),
        server_(server),
        patience_(patience) {}

  void tick() {
    auto stat = completions(stat_path_);
    const auto now = steady_clock::now();
    if (stat != stat_) {
      stat_ = std::move(stat);
      since_ = now;
    } else if (now - since_ > patience_ && server_.valid()) {
      ::syscall(SYS_pidfd_send_signal, server_.get(), SIGKILL, nullptr, 0);
    }
  }

 private:
  std::string stat_path_;
  const UniqueFd& server_;
  std::chrono::milliseconds patience_;
  std::string stat_;
  steady_clock::time_point since_ = steady_clock::now();
};

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

std::optional<ServerStats> server_stats(pid_t pid) {
  if (!pidfd_of(pid).valid()) return std::nullopt;
  ServerStats stats{.pid = pid};
  std::error_code ec;
  for (const auto& entry :
       fs::directory_iterator(fmt("/proc/{}/task", pid), ec)) {
    const std::string dir = entry.path().string();
    const auto status = read_text(dir + "/status");
    if (!status) continue;
    // Ended, but its parent has not taken notice yet.
    if (status->contains("\nState:\tZ")) continue;
    stats.threads++;
    if (read_text(dir + "/comm").value_or("").starts_with(kQueueThreadPrefix))
      stats.wakeups += status_value(*status, "voluntary_ctxt_switches");
  }
  if (!ec && stats.threads == 0) return std::nullopt;
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
  device.server = server_stats(device.info.ublksrv_pid);
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

Result<void> remove_device(Control& control, const StateStore& states,
                           uint32_t dev_id,
                           std::chrono::milliseconds patience) {
  const auto info = control.info(dev_id);
  if (!info) {
    // What an unclean end has left of it.
    if (info.error().code() == ENODEV) TRY(states.remove(dev_id, ""));
    return std::unexpected(info.error());
  }
  const auto state = states.load(dev_id);
  const UniqueFd server = pidfd_of(info->ublksrv_pid);
  Watchdog stop_watch(dev_id, server, patience);
  TRY(control.stop(dev_id, [&] { stop_watch.tick(); }));
  Watchdog remove_watch(dev_id, server, patience);
  auto removed = control.remove(dev_id, [&] { remove_watch.tick(); });
  // The server may have been told to end too, and have deleted it itself.
  if (!removed && removed.error().code() != ENODEV) return removed;
  if (!wait_gone(server, patience))
    return fail(EBUSY,
                "{}: is deleted, but its server, process {}, does not end",
                device_name(dev_id), info->ublksrv_pid);
  return states.remove(dev_id, state ? state->instance : "");
}

}  // namespace ublk
