// SPDX-License-Identifier: MIT
//
// sd_journal_send(3) looks for the journal's socket by its name each time,
// which a server that has left the mounts has none for. Hence a socket that is
// connected, and the few lines of the protocol:
// systemd.io/JOURNAL_NATIVE_PROTOCOL.
#include "cli/system_log.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "sys/device_name.h"
#include "sys/names.h"

namespace ublk::cli {

namespace {

constexpr const char* kIdentifier = "ublk-bpf";

UniqueFd connect_to(const std::string& path) {
  sockaddr_un to{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(to.sun_path)) return UniqueFd();
  std::memcpy(to.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)))
    return UniqueFd();
  return fd;
}

// N of a line that begins "ublkbN: ", as those about a device do.
std::optional<uint32_t> device_of(std::string_view line) {
  constexpr std::string_view kPrefix = "ublkb";
  if (!line.starts_with(kPrefix)) return {};
  line.remove_prefix(kPrefix.size());
  uint32_t dev_id = 0;
  const auto [end, failed] =
      std::from_chars(line.data(), line.data() + line.size(), dev_id);
  if (failed != std::errc() || end == line.data() + line.size() || *end != ':')
    return {};
  return dev_id;
}

}  // namespace

SystemLog SystemLog::connect(const std::string& journal) {
  SystemLog log(connect_to(journal));
  if (!log.journal_.valid())
    ::openlog(kIdentifier, LOG_PID | LOG_NDELAY, LOG_DAEMON);
  return log;
}

void SystemLog::write(const Error& error) const {
  const std::string line = one_line(error.line());
  if (!journal_.valid()) {
    ::syslog(LOG_DAEMON | LOG_ERR, "%s", line.c_str());
    return;
  }
  std::string entry = fmt(
      "MESSAGE={}\nPRIORITY={}\nSYSLOG_FACILITY={}\nSYSLOG_IDENTIFIER={}\n"
      "SYSLOG_PID={}\nERRNO={}\n",
      line, LOG_ERR, LOG_DAEMON >> 3, kIdentifier, ::getpid(), error.code());
  auto dev_id = device_of(line);
  if (!dev_id && names_.size() == 1) dev_id = names_.begin()->first;
  if (dev_id) {
    entry += fmt("UBLK_BPF_DEVICE={}\n", device_name(*dev_id));
    const auto name = names_.find(*dev_id);
    if (name != names_.end() && !name->second.empty())
      entry += fmt("UBLK_BPF_NAME={}\n", name->second);
  }
  // A journal that is behind is not waited for: it may write to a disk that is
  // served here.
  (void)::send(journal_.get(), entry.data(), entry.size(),
               MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace ublk::cli
