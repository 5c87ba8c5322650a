// SPDX-License-Identifier: MIT
//
// sd_journal_send(3) looks for the journal's socket by its name each time,
// which is none any more to a server that has left the mounts, and it waits; so
// does syslog(3). Hence sockets that are connected, and the few lines of the
// protocols: systemd.io/JOURNAL_NATIVE_PROTOCOL, RFC 3164.
#include "cli/system_log.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "ctrl/control.h"
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

SystemLog SystemLog::connect(const std::string& journal,
                             const std::string& syslog) {
  if (UniqueFd fd = connect_to(journal); fd.valid())
    return SystemLog(std::move(fd), true);
  return SystemLog(connect_to(syslog), false);
}

std::string SystemLog::entry(const std::string& line, int code) const {
  // As syslog(3) has it, except for the time, which whoever gets it knows.
  if (!is_journal_)
    return fmt("<{}>{}[{}]: {}", LOG_DAEMON | LOG_ERR, kIdentifier, ::getpid(),
               line);
  std::string fields =
      fmt("MESSAGE={}\nPRIORITY={}\nSYSLOG_FACILITY={}\nSYSLOG_IDENTIFIER={}\n"
          "SYSLOG_PID={}\nERRNO={}\n",
          line, LOG_ERR, LOG_DAEMON >> 3, kIdentifier, ::getpid(), code);
  auto dev_id = device_of(line);
  if (!dev_id && names_.size() == 1) dev_id = names_.begin()->first;
  if (dev_id) {
    fields += fmt("UBLK_BPF_DEVICE={}\n", device_name(*dev_id));
    const auto name = names_.find(*dev_id);
    if (name != names_.end() && !name->second.empty())
      fields += fmt("UBLK_BPF_NAME={}\n", name->second);
  }
  return fields;
}

void SystemLog::write(const Error& error) const {
  const std::string text = entry(one_line(error.line()), error.code());
  // Nobody would hear that it cannot be told.
  (void)::send(socket_.get(), text.data(), text.size(),
               MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace ublk::cli
