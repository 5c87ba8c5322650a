// SPDX-License-Identifier: MIT
#pragma once

#include <linux/time_types.h>

#include <cstdint>
#include <limits>
#include <string_view>

#include "sys/error.h"

namespace ublk {

// One --fault: which requests it is for, and what goes wrong with them.
struct FaultRule {
  uint32_t ops = ~0U;  // a bit for each UBLK_IO_OP_*
  double rate = 1;     // of the requests that it is for, above 0
  uint64_t seed = 0;   // of the dice that decide by the rate
  // The device's bytes, from the first one to before the last one. A request
  // without bytes of its own, FLUSH, is in no range that was given.
  uint64_t first_bytes = 0;
  uint64_t end_bytes = std::numeric_limits<uint64_t>::max();
  bool has_range = false;
  bool only_failed = false;  // those that a BPF program's plan failed for

  __kernel_timespec delay{};  // before anything else
  int error = 0;              // a positive errno instead of the I/O
  uint32_t short_bytes = 0;   // the most that the first step transfers

  bool delays() const { return delay.tv_sec || delay.tv_nsec; }
  // `failed`: a BPF program's plan did.
  bool is_for(uint8_t op, uint64_t start_bytes, uint64_t len_bytes,
              bool failed = false) const;
  // Whether the nth of these requests is hit: the same for the same seed.
  bool hits(uint64_t nth) const;
};

// "op=read+write,range=1M-2M,failed=bpf,rate=0.1,seed=7,delay=5ms,error=EIO,
// short=512",
// any of it, but of the last three at least one, and not both of the last.
// EINVAL: says which part is wrong and what it can be.
Result<FaultRule> parse_fault_rule(std::string_view text);

}  // namespace ublk
