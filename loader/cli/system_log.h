// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk::cli {

// Where a server's words go once nobody listens to it: systemd's journal, with
// fields that can be looked for, or the system's log where there is none.
// Connected before the server leaves the mounts, and with them the names of the
// sockets.
class SystemLog {
 public:
  static SystemLog connect(
      const std::string& journal = "/run/systemd/journal/socket",
      const std::string& syslog = "/dev/log");

  // Names of devices by their numbers, for UBLK_BPF_NAME.
  void set_names(std::map<uint32_t, std::string> names) {
    names_ = std::move(names);
  }

  // One line, of priority LOG_ERR. Beside what the journal adds by itself:
  //   ERRNO            of the error
  //   UBLK_BPF_DEVICE  ublkbN that it is about; one alone needs no mention
  //   UBLK_BPF_NAME    that device's name, if it has one
  // What cannot be told at once is lost: who writes the log may wait for a disk
  // that this process serves.
  void write(const Error& error) const;

 private:
  SystemLog(UniqueFd socket, bool is_journal)
      : socket_(std::move(socket)), is_journal_(is_journal) {}
  std::string entry(const std::string& line, int code) const;

  UniqueFd socket_;
  bool is_journal_;
  std::map<uint32_t, std::string> names_;
};

}  // namespace ublk::cli
