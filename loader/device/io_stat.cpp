// SPDX-License-Identifier: MIT
#include "device/io_stat.h"

#include <charconv>

#include "sys/text_file.h"

namespace ublk {

namespace {

// Fields of Documentation/block/stat.rst. Kernels before 5.5 lack the last
// ones.
constexpr size_t kNrFields = 17;
constexpr uint64_t kSectorBytes = 512;

// What a counter that began anew has counted since is what it says.
uint64_t since(uint64_t before, uint64_t now) {
  return now >= before ? now - before : now;
}

}  // namespace

std::optional<IoStat> parse_io_stat(std::string_view text) {
  std::array<uint64_t, kNrFields> f{};
  size_t n = 0;
  const char* at = text.data();
  const char* end = at + text.size();
  while (n < f.size()) {
    while (at < end && (*at == ' ' || *at == '\n')) at++;
    if (at == end) break;
    const auto [next, bad] = std::from_chars(at, end, f[n]);
    if (bad != std::errc()) return std::nullopt;
    at = next;
    n++;
  }
  if (n < kNrFields) return std::nullopt;
  IoStat stat;
  stat.kinds[kIoRead] = {f[0], f[2] * kSectorBytes, f[3]};
  stat.kinds[kIoWrite] = {f[4], f[6] * kSectorBytes, f[7]};
  stat.in_flight = f[8];
  stat.busy_ms = f[9];
  stat.kinds[kIoDiscard] = {f[11], f[13] * kSectorBytes, f[14]};
  stat.kinds[kIoFlush] = {f[15], 0, f[16]};
  return stat;
}

std::optional<IoStat> read_io_stat(uint32_t dev_id) {
  const auto text = read_text(fmt("/sys/block/ublkb{}/stat", dev_id));
  return text ? parse_io_stat(*text) : std::nullopt;
}

std::vector<Sample> take_samples(Control& control, const StateStore& states,
                                 std::optional<uint32_t> dev_id) {
  std::vector<Sample> samples;
  Servers servers;
  for (const uint32_t id : dev_id ? std::vector{*dev_id} : device_ids()) {
    auto device = describe(control, states, id, servers);
    if (!device) continue;
    Sample sample{.device = std::move(*device),
                  .io = read_io_stat(id).value_or(IoStat{}),
                  .latencies = std::nullopt};
    // Most programs keep none, which is no error.
    if (sample.device.bpf)
      if (auto latencies = read_latencies(id, *sample.device.bpf))
        sample.latencies = *latencies;
    samples.push_back(std::move(sample));
  }
  return samples;
}

Activity activity(const Sample& before, const Sample& now) {
  Activity done;
  for (size_t kind = 0; kind < kNrIoKinds; kind++) {
    const IoCount& from = before.io.kinds[kind];
    const IoCount& to = now.io.kinds[kind];
    done.io.kinds[kind] = {since(from.done, to.done),
                           since(from.bytes, to.bytes), since(from.ms, to.ms)};
  }
  done.io.in_flight = now.io.in_flight;
  done.io.busy_ms = since(before.io.busy_ms, now.io.busy_ms);
  if (now.device.bpf) {
    const ublk_bpf_info none{};
    const auto& from = before.device.bpf ? *before.device.bpf : none;
    done.redirected = since(from.redirected, now.device.bpf->redirected);
    done.passed = since(from.passed, now.device.bpf->passed);
    done.failed = since(from.failed, now.device.bpf->failed);
  }
  if (const auto& server = now.device.server) {
    const auto& old = before.device.server;
    const bool same = old && old->pid == server->pid;
    done.wakeups = since(same ? old->wakeups : 0, server->wakeups);
    done.cpu_ns = since(same ? old->cpu_ns : 0, server->cpu_ns);
  }
  if (now.latencies)
    done.latencies =
        now.latencies->since(before.latencies.value_or(Latencies{.ops = {}}));
  return done;
}

}  // namespace ublk
