// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "sys/process.h"
#include "sys/unique_fd.h"

namespace ublk {

// The process that serves a device.
//
// A pid is not one: the driver goes on naming the pid of a server that has
// died, and the number may be another process's by then. It counts while this
// very process has the device's /dev/ublkcN open. All that is done to it is
// done by a descriptor of it that was taken before that was looked at.
class ServerProcess {
 public:
  // Nothing if the pid that the driver names is not its server's, or nobody
  // may tell.
  static std::optional<ServerProcess> find(const ublksrv_ctrl_dev_info& info,
                                           const std::string& proc = "/proc");
  // Nothing if there is no such process, or it has no device open.
  static std::optional<ServerProcess> open(pid_t pid,
                                           const std::string& proc = "/proc");

  pid_t pid() const { return pid_; }
  // Whether it had the device open when it was found.
  bool had(uint32_t dev_id) const { return had_.contains(dev_id); }
  const std::set<uint32_t>& had() const { return had_; }
  void kill() const;
  // True if it has gone before the time is over.
  bool wait_gone(std::chrono::milliseconds time) const {
    return ublk::wait_gone(pidfd_, time);
  }
  // The devices that it has open now.
  std::vector<uint32_t> devices() const;
  // Those without this one.
  std::vector<uint32_t> others(uint32_t dev_id) const;

 private:
  ServerProcess(pid_t pid, UniqueFd pidfd, std::set<uint32_t> had)
      : pid_(pid), pidfd_(std::move(pidfd)), had_(std::move(had)) {}

  pid_t pid_;
  UniqueFd pidfd_;
  std::set<uint32_t> had_;
};

// A server of ours ends with its last device. True if it has ended, or has
// another device than this one, before the time is over.
bool wait_for_end(const ServerProcess& server, uint32_t dev_id,
                  std::chrono::milliseconds time);

// Servers of devices that are to be deleted: each is looked for once.
class KnownServers {
 public:
  // Null: there is none.
  const ServerProcess* find(const ublksrv_ctrl_dev_info& info);
  const std::map<pid_t, std::optional<ServerProcess>>& all() const {
    return servers_;
  }

 private:
  std::map<pid_t, std::optional<ServerProcess>> servers_;
};

// The devices of which a process has /dev/ublkcN open.
std::set<uint32_t> open_devices(pid_t pid, const std::string& proc = "/proc");
// Those that any process has open.
std::set<uint32_t> open_devices();

// ETIMEDOUT: whoever has the device's /dev/ublkcN open, be it a server that was
// killed and whose I/O does not end, has not closed it for this long. Names
// him.
Error not_let_go(uint32_t dev_id, std::chrono::milliseconds time,
                 const std::string& proc = "/proc");

// "ublkb4, ublkb5 and 3 more"
std::string names_of(const std::vector<uint32_t>& dev_ids);

// What a server has used so far: a process, with whatever devices it has.
struct ServerStats {
  pid_t pid = 0;
  // Of the threads of this device's queues: times they went to sleep.
  uint64_t wakeups = 0;
  uint64_t cpu_ns = 0;
  unsigned threads = 0;
};

// Servers as they were when they were first asked for: each is read once, even
// if it has hundreds of devices.
class Servers {
 public:
  // Nothing if nobody serves the device. Only the pid where /proc cannot be
  // read, as in a server that has left the mounts and asks about itself.
  std::optional<ServerStats> stats(const ublksrv_ctrl_dev_info& info);

 private:
  struct Seen {
    std::set<uint32_t> devices;
    std::map<uint32_t, uint64_t> wakeups;
    ServerStats stats;
  };
  static Seen look_at(pid_t pid);

  std::map<pid_t, Seen> seen_;
};

}  // namespace ublk
