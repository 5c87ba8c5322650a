// SPDX-License-Identifier: MIT
//
// metrics: what is counted, as OpenMetrics text; node_exporter's textfile
// collector reads it too.

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <set>

#include "cli/command_line.h"
#include "cli/output.h"
#include "device/io_stat.h"
#include "device/latency.h"
#include "server/data_path.h"
#include "sys/text_file.h"

namespace ublk::cli {

namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

using Labels = std::vector<std::pair<const char*, std::string>>;

std::string labelled(const Labels& labels) {
  std::string text;
  for (const auto& [name, value] : labels)
    text += fmt("{}{}=\"{}\"", text.empty() ? "" : ",", name, escaped(value));
  return text.empty() ? text : "{" + text + "}";
}

// One family: its description, then its samples.
class Family {
 public:
  Family(const char* name, const char* type, const char* unit,
         const char* help) {
    const std::string full = fmt("ublk_bpf_{}", name);
    name_ = full;
    text_ = fmt("# TYPE {} {}\n", full, type);
    if (*unit) text_ += fmt("# UNIT {} {}\n", full, unit);
    text_ += fmt("# HELP {} {}\n", full, help);
  }
  template <typename Number>
  void add(const char* suffix, const Labels& labels, Number value) {
    text_ += fmt("{}{}{} {}\n", name_, suffix, labelled(labels), value);
  }
  const std::string& text() const { return text_; }

 private:
  std::string name_;
  std::string text_;
};

std::string disk_of(const Sample& sample) {
  return fmt("ublkb{}", sample.device.info.dev_id);
}

double seconds_of_ms(uint64_t ms) { return static_cast<double>(ms) / 1e3; }
double seconds_of_ns(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

std::string device_families(const std::vector<Sample>& samples) {
  Family info("device_info", "gauge", "", "What a device is. Always 1.");
  Family size("size_bytes", "gauge", "bytes", "Size of the device.");
  Family live("device_live", "gauge", "",
              "1: the device is live. 0: it waits for a server, or is dead.");
  Family server("server_up", "gauge", "", "1: a server has the device.");
  Family program("program_attached", "gauge", "",
                 "1: a BPF program is attached.");
  for (const Sample& sample : samples) {
    const Device& device = sample.device;
    const std::string disk = disk_of(sample);
    const auto& state = device.state;
    info.add("",
             {{"device", disk},
              {"name", state ? state->name : ""},
              {"target", state ? state->target.type : ""},
              {"recovery", std::string(recovery_name(device.info.flags))},
              {"data_path", std::string(data_path_of(device.info.flags).name)}},
             1);
    size.add("", {{"device", disk}}, device.size_bytes());
    live.add("", {{"device", disk}},
             device.info.state == UBLK_S_DEV_LIVE ? 1 : 0);
    server.add("", {{"device", disk}}, device.server ? 1 : 0);
    if (device.bpf)
      program.add("", {{"device", disk}}, device.bpf->prog_id ? 1 : 0);
  }
  return info.text() + size.text() + live.text() + server.text() +
         program.text();
}

std::string io_families(const std::vector<Sample>& samples) {
  Family done("io", "counter", "", "I/O that is done, by operation.");
  Family bytes("io_bytes", "counter", "bytes", "Bytes of it.");
  Family time("io_time_seconds", "counter", "seconds",
              "From submission to completion, added up.");
  Family flight("io_in_flight", "gauge", "", "I/O under way.");
  Family busy("busy_seconds", "counter", "seconds",
              "How long there was any under way.");
  for (const Sample& sample : samples) {
    const std::string disk = disk_of(sample);
    for (size_t kind = 0; kind < kNrIoKinds; kind++) {
      const Labels labels = {{"device", disk}, {"op", kIoNames[kind]}};
      const IoCount& count = sample.io.kinds[kind];
      done.add("_total", labels, count.done);
      bytes.add("_total", labels, count.bytes);
      time.add("_total", labels, seconds_of_ms(count.ms));
    }
    flight.add("", {{"device", disk}}, sample.io.in_flight);
    busy.add("_total", {{"device", disk}}, seconds_of_ms(sample.io.busy_ms));
  }
  return done.text() + bytes.text() + time.text() + flight.text() + busy.text();
}

std::string bpf_families(const std::vector<Sample>& samples) {
  Family requests("requests", "counter", "",
                  "Requests that a program has seen, by its verdict.");
  Family failed("requests_failed", "counter", "",
                "Redirected requests that ended with an error.");
  Family refused("refused", "counter", "",
                 "SQEs and plans that the kernel has refused, by reason.");
  for (const Sample& sample : samples) {
    if (!sample.device.bpf) continue;
    const ublk_bpf_info& bpf = *sample.device.bpf;
    const std::string disk = disk_of(sample);
    const std::pair<const char*, uint64_t> verdicts[] = {
        {"redirected", bpf.redirected},
        {"passed", bpf.passed},
        {"dropped", bpf.dropped},
        {"aborted", bpf.aborted}};
    for (const auto& [verdict, count] : verdicts)
      requests.add("_total", {{"device", disk}, {"verdict", verdict}}, count);
    failed.add("_total", {{"device", disk}}, bpf.failed);
    for (uint32_t reason = 0; reason < UBLK_BPF_NR_REFUSED; reason++)
      if (reason != UBLK_BPF_REFUSED_NONE)
        refused.add("_total",
                    {{"device", disk}, {"reason", reason_name(reason)}},
                    bpf.refused[reason].count);
  }
  return requests.text() + failed.text() + refused.text();
}

std::string server_families(const std::vector<Sample>& samples) {
  Family wakeups("server_wakeups", "counter", "",
                 "How often threads that serve this device have slept.");
  Family cpu("server_cpu_seconds", "counter", "seconds",
             "CPU time of a server, with its first device; it may have more.");
  std::set<pid_t> seen;
  for (const Sample& sample : samples) {
    const auto& server = sample.device.server;
    if (!server) continue;
    const Labels labels = {{"device", disk_of(sample)}};
    wakeups.add("_total", labels, server->wakeups);
    if (seen.insert(server->pid).second)
      cpu.add("_total", labels, seconds_of_ns(server->cpu_ns));
  }
  return wakeups.text() + cpu.text();
}

// Of programs that keep one.
std::string latency_family(const std::vector<Sample>& samples) {
  Family latency("program_latency_seconds", "histogram", "seconds",
                 "From a program to the end of its last SQE.");
  constexpr uint8_t kOps[] = {UBLK_IO_OP_READ, UBLK_IO_OP_WRITE,
                              UBLK_IO_OP_FLUSH, UBLK_IO_OP_DISCARD,
                              UBLK_IO_OP_WRITE_ZEROES};
  for (const Sample& sample : samples) {
    if (!sample.latencies) continue;
    for (const uint8_t op : kOps) {
      const OpLatency& of = sample.latencies->ops[op];
      Labels labels = {{"device", disk_of(sample)}, {"op", op_name(op)}};
      uint64_t count = 0;
      for (size_t i = 0; i + 1 < of.buckets.size(); i++) {
        count += of.buckets[i];
        Labels bucket = labels;
        bucket.emplace_back("le", fmt("{}", seconds_of_ns(bucket_ns(i + 1))));
        latency.add("_bucket", bucket, count);
      }
      Labels last = labels;
      last.emplace_back("le", "+Inf");
      latency.add("_bucket", last, of.count());
      latency.add("_count", labels, of.count());
      latency.add("_sum", labels, seconds_of_ns(of.total_ns));
    }
  }
  return latency.text();
}

std::string metrics_of(const std::vector<Sample>& samples) {
  return device_families(samples) + io_families(samples) +
         bpf_families(samples) + server_families(samples) +
         latency_family(samples) + "# EOF\n";
}

// The request on standard input, up to its empty line, is for any page.
std::string http_answer(const std::string& body) {
  for (std::string line; std::getline(std::cin, line);)
    if (line.empty() || line == "\r") break;
  return fmt(
      "HTTP/1.0 200 OK\r\nContent-Type: application/openmetrics-text; "
      "version=1.0.0; charset=utf-8\r\nContent-Length: {}\r\nConnection: "
      "close\r\n\r\n{}",
      body.size(), body);
}

Result<void> put(const std::string& path, const std::string& text) {
  const std::filesystem::path file = path;
  const std::string dir =
      file.has_parent_path() ? file.parent_path().string() : std::string(".");
  const UniqueFd fd = TRY(UniqueFd::open(dir, O_RDONLY | O_DIRECTORY));
  TRY_IN(dir, replace_text_at(fd.get(), file.filename().string(), text));
  return {};
}

}  // namespace

void define_metrics(Arguments& command, Options& options) {
  command.text("--output", options.watch.output, "FILE",
               "replace this file in one step, as for node_exporter's textfile "
               "collector");
  command.flag("--http", options.watch.http,
               "answer the HTTP request on standard input, as for a socket of "
               "systemd's");
  command.footer(
      "OpenMetrics text: what the kernel counts of each device, what its "
      "program does, what its server costs, and the histogram of a program "
      "that keeps one. Examples of units and of alert rules are in "
      "share/doc/ublk-bpf/examples.\n"
      "Examples:\n"
      "  ublk-bpf metrics\n"
      "  ublk-bpf metrics --output "
      "/var/lib/prometheus/node-exporter/ublk-bpf.prom");
}

int run_metrics(const Options& options) {
  const WatchOptions& watch = options.watch;
  if (watch.http && !watch.output.empty())
    return report(
        Error::plain(EINVAL, "--http and --output exclude each other"),
        options.json, kUsedWrongly);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  control->only_glance();
  const auto samples =
      take_samples(*control, StateStore::open_existing(), std::nullopt);
  const std::string text = metrics_of(samples);
  if (!watch.output.empty()) {
    const auto done = put(watch.output, text);
    return done ? static_cast<int>(kDone) : report(done.error(), options.json);
  }
  const std::string out = watch.http ? http_answer(text) : text;
  std::fwrite(out.data(), 1, out.size(), stdout);
  return kDone;
}

}  // namespace ublk::cli
