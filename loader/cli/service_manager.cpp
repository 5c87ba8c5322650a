// SPDX-License-Identifier: MIT
#include "cli/service_manager.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>

namespace ublk::cli {

namespace {

constexpr uint64_t kBarrierUsec = 5'000'000;

}  // namespace

bool has_service_manager() { return std::getenv("NOTIFY_SOCKET") != nullptr; }

Result<void> tell_ready(pid_t server, const std::string& status) {
  const int told = ::sd_notify(
      0, fmt("MAINPID={}\nREADY=1\nSTATUS={}", server, status).c_str());
  if (const int code = errno_of(told))
    return fail_sys(code, "telling the service manager");
  if (told == 0) return {};
  // Until it has read that: when this process has gone, it must not take it for
  // the service. One that knows no barrier reads it in time, too.
  (void)::sd_notify_barrier(0, kBarrierUsec);
  return {};
}

}  // namespace ublk::cli
