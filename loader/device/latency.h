// SPDX-License-Identifier: MIT
#pragma once

#include <ublk_bpf_maps.h>

#include <array>
#include <cstdint>

#include "ctrl/control.h"
#include "sys/error.h"

namespace ublk {

// How long the requests of one operation have taken, on all processors.
struct OpLatency {
  uint64_t total_ns = 0;
  uint64_t errors = 0;
  std::array<uint64_t, UBLK_BPF_LATENCY_BUCKETS> buckets{};

  uint64_t count() const;
  // 0 of none.
  uint64_t mean_ns() const;
  // What this part of them, 0 to 1, took less time than: the end of a bucket.
  uint64_t below_ns(double part) const;
};

// Where a bucket begins: 0, 2, 4, 8... ns. It ends where the next one begins.
uint64_t bucket_ns(size_t bucket);

// What the program's map says at one time, by UBLK_IO_OP_*.
struct Latencies {
  uint32_t prog_id = 0;
  uint32_t map_id = 0;
  std::array<OpLatency, UBLK_BPF_LATENCY_OPS> ops{};

  // What has come since, if it is the same map.
  Latencies since(const Latencies& before) const;
};

// Of the attached program. ENOENT: there is none. EOPNOTSUPP: it keeps none,
// it has no map of that name and layout (uapi/ublk_bpf_maps.h).
Result<Latencies> read_latencies(Control& control, uint32_t dev_id);
// The same, of what the kernel has just said of the device's program.
Result<Latencies> read_latencies(uint32_t dev_id, const ublk_bpf_info& info);

}  // namespace ublk
