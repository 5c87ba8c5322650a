// SPDX-License-Identifier: MIT
#include "cli/command_line.h"
#include "cli/output.h"
#include "cli/with_device.h"
#include "device/lifecycle.h"
#include "sys/cpu_list.h"

namespace ublk::cli {

void define_set_affinity(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.number("-q,--queue", options.queue, 0, UBLK_MAX_NR_QUEUES - 1,
                 "which of its queues");
  command.text("--cpuset", options.cpus, "CPUS", "such as 0-3,8", true);
  command.footer(
      "Moves the thread that serves a queue; by default it runs on the CPUs "
      "whose I/O the queue has. A server that recovers the device keeps it.\n"
      "Example:\n"
      "  ublk-bpf set-affinity -n 0 -q 1 --cpuset 2-3");
}

int run_set_affinity(const Options& options) {
  const auto cpus = parse_cpu_list(options.cpus);
  if (!cpus)
    return report(Error(cpus.error()).in("--cpuset"), options.json,
                  kUsedWrongly);
  return with_device(options, [&](Control& control, const StateStore& states,
                                  uint32_t dev_id) {
    return set_queue_affinity(control, states, dev_id,
                              static_cast<uint16_t>(options.queue), *cpus);
  });
}

}  // namespace ublk::cli
