// SPDX-License-Identifier: MIT
#include "device/workplace.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "sys/mounts.h"
#include "sys/process.h"
#include "sys/text_file.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kNodeWait = 5s;

// Where the kernel makes nodes there is nothing to wait for.
Result<void> check_node(const Workplace& place, uint32_t dev_id) {
  const std::string name = fmt("ublkc{}", dev_id);
  if (!place.devtmpfs ||
      ::faccessat(place.dev_dir.get(), name.c_str(), F_OK, 0) == 0 ||
      errno != ENOENT)
    return {};
  return std::unexpected(
      Error::sys(ENOENT, fmt("{}: open", char_path(dev_id)))
          .hint("the kernel has made it, but this /dev is a private one (a "
                "container's?): give it the host's, a devtmpfs"));
}

// udev, where there is no devtmpfs, makes the node some time after the driver
// has announced it. And the driver lets the next server in only when the
// last reference to the file is gone.
Result<UniqueFd> open_char(const UniqueFd& dev_dir, uint32_t dev_id) {
  const auto until = steady_clock::now() + kNodeWait;
  for (;;) {
    auto fd = UniqueFd::open_at(dev_dir.get(), fmt("ublkc{}", dev_id), O_RDWR);
    const int code = fd ? 0 : fd.error().code();
    if ((code != ENOENT && code != EBUSY) || steady_clock::now() > until)
      return fd;
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

Result<std::vector<cpu_set_t>> queue_cpus(
    Control& control, const ublksrv_ctrl_dev_info& info,
    const std::map<uint16_t, std::vector<uint16_t>>& affinity) {
  std::vector<cpu_set_t> cpus;
  for (uint16_t q = 0; q < info.nr_hw_queues; q++) {
    const auto wanted = affinity.find(q);
    if (wanted == affinity.end()) {
      cpus.push_back(TRY(control.queue_affinity(info.dev_id, q)));
      continue;
    }
    CPU_ZERO(&cpus.emplace_back());
    for (const uint16_t cpu : wanted->second) CPU_SET(cpu, &cpus.back());
  }
  return cpus;
}

}  // namespace

Result<Workplace> Workplace::open(const ServeHooks& hooks) {
  // A device has three and its files.
  allow_many_files();
  Control control = TRY(Control::open(hooks.control));
  StateStore states = TRY(StateStore::open());
  UniqueFd dev_dir = TRY(UniqueFd::open("/dev", O_PATH | O_DIRECTORY));
  UniqueFd proc_dir = TRY(UniqueFd::open("/proc", O_PATH | O_DIRECTORY));
  const bool devtmpfs =
      read_text("/proc/filesystems").value_or("").contains("\tdevtmpfs\n");
  return Workplace{std::move(control), std::move(states), std::move(dev_dir),
                   std::move(proc_dir), devtmpfs};
}

std::string new_instance() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return fmt("{}-{}.{:09}", ::getpid(), now.tv_sec, now.tv_nsec);
}

void settle(const ServeHooks& hooks) {
  outlive_shutdown();
  // Each is worth having without the others.
  for (const auto step : {leave_mounts, stay_clear_of_reclaim, lock_memory})
    if (auto done = step(); !done) hooks.trouble(done.error());
}

Result<void> wait_for_node(const Workplace& place, uint32_t dev_id) {
  TRY(check_node(place, dev_id));
  const std::string name = fmt("ublkc{}", dev_id);
  const auto until = steady_clock::now() + kNodeWait;
  while (
      ::faccessat(place.dev_dir.get(), name.c_str(), R_OK | W_OK, AT_EACCESS)) {
    if (steady_clock::now() > until)
      return std::unexpected(
          Error::sys(EACCES,
                     fmt("{}: {}", device_name(dev_id), char_path(dev_id)))
              .hint(fmt("udev gives it to its owner with the example "
                        "60-ublk-bpf-users.rules; root can: ublk-bpf own -n "
                        "{}, or del -n {}",
                        dev_id, dev_id)));
    std::this_thread::sleep_for(kRetryPeriod);
  }
  return {};
}

Result<std::unique_ptr<Server>> make_server(
    Workplace& place, Target target, const ublksrv_ctrl_dev_info& info,
    const std::map<uint16_t, std::vector<uint16_t>>& affinity) {
  TRY(check_node(place, info.dev_id));
  UniqueFd char_fd = TRY(open_char(place.dev_dir, info.dev_id));
  const auto cpus = TRY(queue_cpus(place.control, info, affinity));
  return Server::create(std::move(target), std::move(char_fd), info, cpus);
}

}  // namespace ublk
