// SPDX-License-Identifier: MIT
#include "device/server_process.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <sstream>

#include "server/queue.h"
#include "sys/open_files.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

// Of the driver's; a device's minor number is its own. 0 without a driver.
unsigned char_major(const std::string& proc) {
  std::istringstream lines(read_text(proc + "/devices").value_or(""));
  unsigned major = 0;
  for (std::string line; std::getline(lines, line);)
    if (line.ends_with(" ublk-char") &&
        std::sscanf(line.c_str(), "%u", &major) == 1)
      return major;
  return 0;
}

std::set<uint32_t> devices_in(const std::set<dev_t>& nodes, unsigned major) {
  std::set<uint32_t> dev_ids;
  for (const dev_t node : nodes)
    if (major && ::major(node) == major) dev_ids.insert(::minor(node));
  return dev_ids;
}

bool has_proc() { return ::access("/proc/self", F_OK) == 0; }

}  // namespace

std::set<uint32_t> open_devices(pid_t pid, const std::string& proc) {
  return devices_in(open_nodes(pid, NodeKind::character, proc),
                    char_major(proc));
}

std::set<uint32_t> open_devices() {
  const unsigned major = char_major("/proc");
  std::set<uint32_t> dev_ids;
  for (const pid_t pid : all_processes())
    dev_ids.merge(devices_in(open_nodes(pid, NodeKind::character), major));
  return dev_ids;
}

std::optional<ServerProcess> ServerProcess::open(pid_t pid,
                                                 const std::string& proc) {
  UniqueFd pidfd = pidfd_of(pid);
  if (!pidfd.valid()) return std::nullopt;
  auto had = open_devices(pid, proc);
  // It has not ended meanwhile, so what was looked at was this process.
  if (had.empty() || ublk::wait_gone(pidfd, std::chrono::milliseconds(0)))
    return std::nullopt;
  return ServerProcess(pid, std::move(pidfd), std::move(had));
}

std::optional<ServerProcess> ServerProcess::find(
    const ublksrv_ctrl_dev_info& info, const std::string& proc) {
  auto process = open(info.ublksrv_pid, proc);
  if (process && !process->had(info.dev_id)) process.reset();
  return process;
}

bool wait_for_end(const ServerProcess& server, uint32_t dev_id,
                  std::chrono::milliseconds time) {
  const auto until = std::chrono::steady_clock::now() + time;
  do {
    if (server.wait_gone(std::min(time, std::chrono::milliseconds(100))))
      return true;
    if (!server.others(dev_id).empty()) return true;
  } while (std::chrono::steady_clock::now() < until);
  return false;
}

const ServerProcess* KnownServers::find(const ublksrv_ctrl_dev_info& info) {
  auto it = servers_.find(info.ublksrv_pid);
  if (it == servers_.end())
    it = servers_
             .emplace(info.ublksrv_pid, ServerProcess::open(info.ublksrv_pid))
             .first;
  const auto& process = it->second;
  return process && process->had(info.dev_id) ? &*process : nullptr;
}

void ServerProcess::kill() const {
  ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

std::vector<uint32_t> ServerProcess::devices() const {
  const auto found = open_devices(pid_);
  if (wait_gone(std::chrono::milliseconds(0))) return {};
  return {found.begin(), found.end()};
}

std::vector<uint32_t> ServerProcess::others(uint32_t dev_id) const {
  auto found = devices();
  std::erase(found, dev_id);
  return found;
}

Error not_let_go(uint32_t dev_id, std::chrono::milliseconds time,
                 const std::string& proc) {
  const unsigned major = char_major(proc);
  std::string who;
  for (const pid_t pid : all_processes(proc))
    if (devices_in(open_nodes_of_threads(pid, NodeKind::character, proc), major)
            .contains(dev_id))
      who += (who.empty() ? "" : ", ") + process_name(pid, proc);
  return Error::plain(
      ETIMEDOUT,
      fmt("{}: {} has not let go of {} for {} s: it has to finish the requests "
          "that it has begun",
          device_name(dev_id), who.empty() ? "its server" : who,
          char_path(dev_id), std::chrono::duration<double>(time).count()));
}

std::string names_of(const std::vector<uint32_t>& dev_ids) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(dev_ids.size(), kShown); i++)
    text += (text.empty() ? "" : ", ") + device_name(dev_ids[i]);
  if (dev_ids.size() > kShown)
    text += fmt(" and {} more", dev_ids.size() - kShown);
  return text;
}

Servers::Seen Servers::look_at(pid_t pid) {
  Seen seen;
  const auto process = ServerProcess::open(pid);
  if (!process) return seen;
  seen.stats.pid = pid;
  for (const ThreadInfo& thread : threads_of(pid)) {
    seen.stats.threads++;
    if (const auto dev_id = device_of_thread(thread.name))
      seen.wakeups[*dev_id] += thread.sleeps;
  }
  // With the threads that have ended: the kernel's io_uring workers come and
  // go.
  clockid_t clock;
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) == 0 &&
      ::clock_gettime(clock, &time) == 0)
    seen.stats.cpu_ns = static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
                        static_cast<uint64_t>(time.tv_nsec);
  if (!process->wait_gone(std::chrono::milliseconds(0)))
    seen.devices = process->had();
  return seen;
}

std::optional<ServerStats> Servers::stats(const ublksrv_ctrl_dev_info& info) {
  const pid_t pid = info.ublksrv_pid;
  if (pid <= 0) return std::nullopt;
  if (!has_proc())
    return pid == ::getpid() ? std::optional(ServerStats{.pid = pid})
                             : std::nullopt;
  auto it = seen_.find(pid);
  if (it == seen_.end()) it = seen_.emplace(pid, look_at(pid)).first;
  if (!it->second.devices.contains(info.dev_id)) return std::nullopt;
  ServerStats stats = it->second.stats;
  if (const auto own = it->second.wakeups.find(info.dev_id);
      own != it->second.wakeups.end())
    stats.wakeups = own->second;
  return stats;
}

}  // namespace ublk
