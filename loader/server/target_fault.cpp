// SPDX-License-Identifier: MIT
//
// fault: another target (--over) of which chosen requests go wrong: late, with
// an error, or with less done than was asked for. Of the --fault rules that a
// request falls under the first applies, and no other. A request that a BPF
// program redirects never gets here, unless it fails there and is passed.

#include <atomic>
#include <cerrno>
#include <memory>
#include <vector>

#include "server/fault_rule.h"
#include "server/target.h"
#include "sys/sizes.h"

namespace ublk {

// Shared by the queues.
struct FaultPlan {
  explicit FaultPlan(std::vector<FaultRule> the_rules)
      : rules(std::move(the_rules)), seen(rules.size()) {}

  const std::vector<FaultRule> rules;
  // How many requests each was for: the dice's next throw.
  std::vector<std::atomic<uint64_t>> seen;
};

namespace {

Result<void> init(Target& target) {
  std::vector<FaultRule> rules;
  for (const std::string& text : target.spec.faults)
    rules.push_back(TRY(parse_fault_rule(text)));
  TRY(target.inner->init(target));
  const uint32_t block = 1U << target.params.basic.logical_bs_shift;
  for (size_t i = 0; i < rules.size(); i++) {
    if (rules[i].short_bytes && !target.inner->takes_file)
      return fail(EINVAL, "--fault '{}': short: target {} has no file",
                  target.spec.faults[i], target.inner->name);
    if (rules[i].short_bytes % block)
      return fail(EINVAL,
                  "--fault '{}': short: is not a multiple of the block size {}",
                  target.spec.faults[i], block);
  }
  target.faults = std::make_shared<FaultPlan>(std::move(rules));
  return {};
}

const FaultRule* choose(FaultPlan& plan, const Io& io) {
  const uint64_t start = io.desc->start_sector << kSectorShift;
  const uint64_t len = uint64_t{io.desc->nr_sectors} << kSectorShift;
  for (size_t i = 0; i < plan.rules.size(); i++) {
    const FaultRule& rule = plan.rules[i];
    if (!rule.is_for(io.op(), start, len, io.failed_in_program())) continue;
    const uint64_t nth = plan.seen[i].fetch_add(1, std::memory_order_relaxed);
    if (rule.hits(nth)) return &rule;
  }
  return nullptr;
}

bool transfers(const Io& io) {
  return io.op() == UBLK_IO_OP_READ || io.op() == UBLK_IO_OP_WRITE;
}

// The request itself, once it has been late.
std::optional<int> go_wrong(const Target& target, const FaultRule& rule, Io& io,
                            io_uring_sqe* sqe) {
  if (rule.error) return negative(rule.error);
  const auto result = target.inner->start(target, io, sqe);
  // The inner target sees a file that does less than it was asked for.
  if (!result && rule.short_bytes && transfers(io))
    sqe->len = std::min(sqe->len, rule.short_bytes);
  return result;
}

std::optional<int> start(const Target& target, Io& io, io_uring_sqe* sqe) {
  io.delayed_by = nullptr;
  const FaultRule* rule = choose(*target.faults, io);
  if (!rule) return target.inner->start(target, io, sqe);
  if (!rule->delays()) return go_wrong(target, *rule, io, sqe);
  io.delayed_by = rule;
  // Its end is no failure, or it would take what is linked to it along. The
  // time outlives the SQE, as the plan does.
  io_uring_prep_timeout(sqe, const_cast<__kernel_timespec*>(&rule->delay), 0,
                        IORING_TIMEOUT_ETIME_SUCCESS);
  return std::nullopt;
}

std::optional<int> done(const Target& target, Io& io, int res,
                        io_uring_sqe* sqe) {
  const FaultRule* rule = io.delayed_by;
  if (!rule) return target.inner->done(target, io, res, sqe);
  io.delayed_by = nullptr;
  if (const int code = errno_of(res); code && code != ETIME) return res;
  return go_wrong(target, *rule, io, sqe);
}

}  // namespace

const TargetOps kFaultTarget = {
    .name = "fault",
    .summary = "another target (--over), with delays, errors and short I/O",
    .takes_file = false,
    .wraps = true,
    .init = init,
    .start = start,
    .done = done,
    .help =
        "--over TARGET is what serves, with its own options. --fault RULE,\n"
        "once or more, says what goes wrong; of those that a request falls\n"
        "under the first applies. A RULE is joined by commas of\n"
        "  op=read+write   read, write, flush, discard, write_zeroes\n"
        "  range=1M-2M     bytes of the device; also 1M- and 1M+64K\n"
        "  failed=bpf      only those that failed in a BPF program\n"
        "  rate=0.1        this part of the requests, by chance\n"
        "  seed=7          of the chance: the same one repeats it\n"
        "and at least one of\n"
        "  delay=5ms       they begin so much later (ns, us, ms, s)\n"
        "  error=EIO       they are not done, but fail\n"
        "  short=512       the file does no more than this at first",
};

}  // namespace ublk
