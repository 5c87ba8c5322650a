// SPDX-License-Identifier: MIT
#include "device/latency.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <vector>

#include "device/bpf.h"
#include "prog/maps.h"

namespace ublk {

namespace {

Result<MapInfo> find_map(const ublk_bpf_info& info, const std::string& name) {
  const auto maps = TRY_IN(name, maps_of_attached(info));
  const auto map =
      std::ranges::find(maps, UBLK_BPF_LATENCY_MAP, &MapInfo::name);
  if (map == maps.end())
    return std::unexpected(
        Error::plain(EOPNOTSUPP,
                     fmt("{}: its program, id {}, does not say how long "
                         "requests take: it has no map {}",
                         name, info.prog_id, UBLK_BPF_LATENCY_MAP))
            .hint("latency.bpf.o is loop.bpf.o with one"));
  const MapInfo wanted = {.type = BPF_MAP_TYPE_PERCPU_ARRAY,
                          .key_bytes = sizeof(uint32_t),
                          .value_bytes = sizeof(ublk_bpf_latency),
                          .max_entries = UBLK_BPF_LATENCY_OPS};
  if (map_shape(*map) != map_shape(wanted))
    return fail(EOPNOTSUPP,
                "{}: map {} of its program is {}, this command knows {}", name,
                map->name, map_shape(*map), map_shape(wanted));
  return *map;
}

void add(OpLatency& sum, const ublk_bpf_latency& of) {
  sum.total_ns += of.total_ns;
  sum.errors += of.errors;
  for (size_t i = 0; i < sum.buckets.size(); i++)
    sum.buckets[i] += of.buckets[i];
}

}  // namespace

uint64_t OpLatency::count() const {
  return std::accumulate(buckets.begin(), buckets.end(), uint64_t{0});
}

uint64_t OpLatency::mean_ns() const {
  const uint64_t all = count();
  return all ? total_ns / all : 0;
}

uint64_t OpLatency::below_ns(double part) const {
  const auto wanted = static_cast<double>(count()) * part;
  uint64_t seen = 0;
  for (size_t i = 0; i < buckets.size(); i++) {
    seen += buckets[i];
    if (seen && static_cast<double>(seen) >= wanted) return bucket_ns(i + 1);
  }
  return 0;
}

uint64_t bucket_ns(size_t bucket) { return bucket ? 1ULL << bucket : 0; }

Latencies Latencies::since(const Latencies& before) const {
  if (before.map_id != map_id) return *this;
  Latencies rest = *this;
  for (size_t op = 0; op < ops.size(); op++) {
    OpLatency& one = rest.ops[op];
    one.total_ns -= before.ops[op].total_ns;
    one.errors -= before.ops[op].errors;
    for (size_t i = 0; i < one.buckets.size(); i++)
      one.buckets[i] -= before.ops[op].buckets[i];
  }
  return rest;
}

Result<Latencies> read_latencies(Control& control, uint32_t dev_id) {
  return read_latencies(dev_id, TRY(control.bpf_info(dev_id)));
}

Result<Latencies> read_latencies(uint32_t dev_id, const ublk_bpf_info& info) {
  const std::string name = device_name(dev_id);
  if (!info.prog_id) return fail(ENOENT, "{}: has no program attached", name);
  const MapInfo map = TRY(find_map(info, name));
  const UniqueFd fd = TRY_IN(name, open_map(map.id));
  const int cpus = libbpf_num_possible_cpus();
  if (const int code = errno_of(cpus)) return fail_sys(code, "processors");
  std::vector<ublk_bpf_latency> values(static_cast<size_t>(cpus));
  Latencies read{.prog_id = info.prog_id, .map_id = map.id};
  for (uint32_t op = 0; op < UBLK_BPF_LATENCY_OPS; op++) {
    const int ret = bpf_map_lookup_elem(fd.get(), &op, values.data());
    if (const int code = errno_of(ret))
      return fail_sys(code, "{}: reading map {}", name, map.name);
    for (const ublk_bpf_latency& value : values) add(read.ops[op], value);
  }
  return read;
}

}  // namespace ublk
