// SPDX-License-Identifier: MIT
//
// stat without -n: what devices do in an interval, as iostat has it.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <thread>

#include "cli/command_line.h"
#include "cli/json.h"
#include "cli/output.h"
#include "device/io_stat.h"

namespace ublk::cli {

namespace {

using std::chrono::steady_clock;

struct Row {
  const Sample* now;
  Activity done;
};

uint64_t mean_ns(const IoCount& count) {
  return count.done ? count.ms * 1'000'000 / count.done : 0;
}

const char* name_of(const Sample& sample) {
  return sample.device.state ? sample.device.state->name.c_str() : "";
}

// What half and 99% of them took less than, ns, as the program counts it; 0 of
// none. Nothing if it does not count.
std::optional<uint64_t> below_ns(const Activity& done, IoKind kind,
                                 double part) {
  if (!done.latencies) return std::nullopt;
  return done.latencies->ops[kIoOps[kind]].below_ns(part);
}

json or_null(const std::optional<uint64_t>& value) {
  return value ? json(*value) : json(nullptr);
}

// Which part of the requests the program has redirected.
std::optional<double> hit_ratio(const Activity& done) {
  const uint64_t all = done.redirected + done.passed;
  if (!all) return std::nullopt;
  return static_cast<double>(done.redirected) / static_cast<double>(all);
}

json to_json(const Row& row) {
  const Device& device = row.now->device;
  json operations = json::array();
  for (size_t kind = 0; kind < kNrIoKinds; kind++) {
    const IoCount& count = row.done.io.kinds[kind];
    operations.push_back(
        {{"op", kIoNames[kind]},
         {"count", count.done},
         {"bytes", count.bytes},
         {"mean_ns", mean_ns(count)},
         {"p50_below_ns",
          or_null(below_ns(row.done, static_cast<IoKind>(kind), 0.5))},
         {"p99_below_ns",
          or_null(below_ns(row.done, static_cast<IoKind>(kind), 0.99))}});
  }
  const auto hits = hit_ratio(row.done);
  const std::string name = name_of(*row.now);
  return {{"dev_id", device.info.dev_id},
          {"name", name.empty() ? json(nullptr) : json(name)},
          {"operations", operations},
          {"in_flight", row.done.io.in_flight},
          {"busy_ms", row.done.io.busy_ms},
          {"redirected", row.done.redirected},
          {"passed", row.done.passed},
          {"failed", row.done.failed},
          {"hit_ratio", hits ? json(*hits) : json(nullptr)},
          {"wakeups", row.done.wakeups},
          {"cpu_ns", row.done.cpu_ns},
          {"pid", device.server ? json(device.server->pid) : json(nullptr)}};
}

std::string to_json(const std::vector<Row>& rows, double seconds) {
  json devices = json::array();
  for (const Row& row : rows) devices.push_back(to_json(row));
  return dump({{"seconds", seconds}, {"devices", devices}});
}

constexpr const char* kLayout =
    "{:<10} {:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>6} {:>5} "
    "{:>8} {:>8} {:>5} {:>8} {:>5}\n";

std::string header() {
  return std::format(kLayout, "DEVICE", "NAME", "r/s", "w/s", "rMB/s", "wMB/s",
                     "r-us", "w-us", "r99-us", "w99-us", "flight", "busy%",
                     "redir/s", "pass/s", "hit%", "wake/s", "cpu%");
}

std::string to_text(const Row& row, double seconds) {
  const auto per_second = [&](uint64_t count) {
    return fmt("{:.0f}", static_cast<double>(count) / seconds);
  };
  const auto megabytes = [&](const IoCount& count) {
    return fmt("{:.1f}", static_cast<double>(count.bytes) / 1e6 / seconds);
  };
  const auto micros = [](const IoCount& count) {
    return count.done ? fmt("{}", mean_ns(count) / 1000) : std::string("-");
  };
  const auto p99 = [&](IoKind kind) {
    const auto below = below_ns(row.done, kind, 0.99);
    return below && *below ? fmt("{:.3g}", static_cast<double>(*below) / 1e3)
                           : std::string("-");
  };
  const auto& io = row.done.io;
  const auto hits = hit_ratio(row.done);
  const std::string name = name_of(*row.now);
  return std::format(
      kLayout, fmt("ublkb{}", row.now->device.info.dev_id),
      name.empty() ? "-" : name, per_second(io.kinds[kIoRead].done),
      per_second(io.kinds[kIoWrite].done), megabytes(io.kinds[kIoRead]),
      megabytes(io.kinds[kIoWrite]), micros(io.kinds[kIoRead]),
      micros(io.kinds[kIoWrite]), p99(kIoRead), p99(kIoWrite), io.in_flight,
      fmt("{:.0f}",
          std::min(static_cast<double>(io.busy_ms) / 10 / seconds, 100.0)),
      per_second(row.done.redirected), per_second(row.done.passed),
      hits ? fmt("{:.0f}", *hits * 100) : std::string("-"),
      per_second(row.done.wakeups),
      fmt("{:.0f}", static_cast<double>(row.done.cpu_ns) / 1e7 / seconds));
}

void print(const std::vector<Row>& rows, double seconds, bool as_json) {
  if (as_json) {
    say(to_json(rows, seconds));
  } else {
    std::string text = header();
    for (const Row& row : rows) text += to_text(row, seconds);
    text.pop_back();
    say(text);
  }
  // Who reads it through a pipe is to have it now.
  std::fflush(stdout);
}

// Those that were there before, too.
std::vector<Row> rows_of(const std::vector<Sample>& before,
                         const std::vector<Sample>& now) {
  std::vector<Row> rows;
  const auto id = [](const Sample& sample) {
    return sample.device.info.dev_id;
  };
  for (const Sample& sample : now) {
    const auto old = std::ranges::find(before, id(sample), id);
    if (old != before.end()) rows.push_back({&sample, activity(*old, sample)});
  }
  return rows;
}

}  // namespace

int run_live_stat(const Options& options) {
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  control->only_glance();
  const StateStore states = StateStore::open_existing();
  const auto dev_id =
      options.dev_id < 0 ? std::nullopt
                         : std::optional(static_cast<uint32_t>(options.dev_id));
  if (dev_id)
    if (auto info = control->info(*dev_id); !info)
      return report(info.error(), options.json);
  const uint32_t interval = options.interval ? options.interval : 1;
  const uint32_t count =
      options.count ? options.count : (options.interval ? 0 : 1);
  auto before = take_samples(*control, states, dev_id);
  auto since = steady_clock::now();
  auto next = since;
  for (uint32_t n = 0; !count || n < count; n++) {
    next += std::chrono::seconds(interval);
    std::this_thread::sleep_until(next);
    auto now = take_samples(*control, states, dev_id);
    const auto until = steady_clock::now();
    if (dev_id && now.empty())
      return report(Error::sys(ENODEV, device_name(*dev_id)), options.json);
    print(rows_of(before, now),
          std::chrono::duration<double>(until - since).count(), options.json);
    before = std::move(now);
    since = until;
  }
  return kDone;
}

}  // namespace ublk::cli
