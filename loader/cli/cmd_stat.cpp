// SPDX-License-Identifier: MIT
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "cli/command_line.h"
#include "cli/json.h"
#include "cli/output.h"
#include "device/latency.h"

namespace ublk::cli {

namespace {

constexpr uint8_t kOps[] = {UBLK_IO_OP_READ, UBLK_IO_OP_WRITE, UBLK_IO_OP_FLUSH,
                            UBLK_IO_OP_DISCARD, UBLK_IO_OP_WRITE_ZEROES};
constexpr uint64_t kMostBar = 40;

json op_to_json(uint8_t op, const OpLatency& of) {
  json buckets = json::array();
  for (size_t i = 0; i < of.buckets.size(); i++)
    if (of.buckets[i])
      buckets.push_back({{"from_ns", bucket_ns(i)}, {"count", of.buckets[i]}});
  return {{"op", op_name(op)},
          {"count", of.count()},
          {"errors", of.errors},
          {"mean_ns", of.mean_ns()},
          {"p50_below_ns", of.below_ns(0.5)},
          {"p99_below_ns", of.below_ns(0.99)},
          {"buckets", buckets}};
}

std::string to_json(uint32_t dev_id, const Latencies& latencies) {
  json ops = json::array();
  for (const uint8_t op : kOps)
    ops.push_back(op_to_json(op, latencies.ops[op]));
  return dump({{"dev_id", dev_id},
               {"prog_id", latencies.prog_id},
               {"operations", ops}});
}

// "131 us", rounded.
std::string duration(uint64_t ns) {
  for (const auto& [unit, name] :
       {std::pair(1'000'000'000ULL, "s"), std::pair(1'000'000ULL, "ms"),
        std::pair(1'000ULL, "us")})
    if (ns >= unit) {
      const auto value = static_cast<double>(ns) / static_cast<double>(unit);
      return value < 10 ? fmt("{:.1f} {}", value, name)
                        : fmt("{:.0f} {}", value, name);
    }
  return fmt("{} ns", ns);
}

std::string op_to_text(uint8_t op, const OpLatency& of) {
  std::string text = fmt(
      "\t{}: {} requests, {} failed, mean {}, half below {}, 99% below {}\n",
      op_name(op), of.count(), of.errors, duration(of.mean_ns()),
      duration(of.below_ns(0.5)), duration(of.below_ns(0.99)));
  const uint64_t most = *std::ranges::max_element(of.buckets);
  for (size_t i = 0; i < of.buckets.size(); i++)
    if (of.buckets[i])
      text +=
          fmt("\t{:>10} to {:<8} {:>9} {}\n", duration(bucket_ns(i)),
              duration(bucket_ns(i + 1)), of.buckets[i],
              std::string(
                  std::max(kMostBar * of.buckets[i] / most, uint64_t{1}), '*'));
  return text;
}

std::string to_text(uint32_t dev_id, const Latencies& latencies) {
  std::string text =
      fmt("dev id {}: program id {}\n", dev_id, latencies.prog_id);
  for (const uint8_t op : kOps)
    if (latencies.ops[op].count()) text += op_to_text(op, latencies.ops[op]);
  text.pop_back();
  return text;
}

}  // namespace

void define_stat(Arguments& command, Options& options) {
  command.device_at_its_place(options.dev_id, options.live);
  command.seconds("seconds", options.interval, 1,
                  "how long an interval is: one after the other, until "
                  "interrupted (default: one interval of a second)");
  command.device(options.dev_id, false);
  command.seconds("--interval", options.interval, 0,
                  "say what has come since, each so often, until interrupted "
                  "(0: what has come so far, once)");
  command.number("--count", options.count, 0, UINT32_MAX,
                 "so many intervals (0: without end)");
  command.footer(
      "Without -n: what the device, or all, do in an interval. Reads and "
      "writes per second, MB per second, their mean times, what 99 of 100 take "
      "less than if the program counts that, how many are under "
      "way and how much of the time any was; requests per second that the "
      "program has redirected and passed, and which part it has redirected; "
      "how often the server was woken up, and its CPU time, which is that of "
      "all its devices.\n"
      "With -n: how long requests take that the attached program plans, if it "
      "keeps a histogram of that, as latency.bpf.o does. A time is that from "
      "the program to the end of its last SQE.\n"
      "Examples:\n"
      "  ublk-bpf stat\n"
      "  ublk-bpf stat 0 5\n"
      "  ublk-bpf stat --interval 10 --count 6 --json\n"
      "  ublk-bpf stat -n 0 --interval 5");
}

int run_stat(const Options& options) {
  if (options.live || options.dev_id < 0) return run_live_stat(options);
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const auto print = options.json ? to_json : to_text;
  auto before = read_latencies(*control, dev_id);
  if (!before) return report(before.error(), options.json);
  if (!options.interval) {
    say(print(dev_id, *before));
    return kDone;
  }
  auto next = std::chrono::steady_clock::now();
  for (uint32_t n = 0; !options.count || n < options.count; n++) {
    next += std::chrono::seconds(options.interval);
    std::this_thread::sleep_until(next);
    const auto now = read_latencies(*control, dev_id);
    if (!now) return report(now.error(), options.json);
    say(print(dev_id, now->since(*before)));
    // Who reads it through a pipe is to have it now.
    std::fflush(stdout);
    before = now;
  }
  return kDone;
}

}  // namespace ublk::cli
