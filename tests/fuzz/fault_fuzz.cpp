// SPDX-License-Identifier: MIT
//
// Rules of the fault target, sizes and times in them.

#include "fuzz.h"
#include "server/fault_rule.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto rule = ublk::parse_fault_rule(text);
  if (!rule) {
    must(!rule.error().line().empty(), "a refusal says why");
    return 0;
  }
  must(rule->rate > 0 && rule->rate <= 1, "a rate is one");
  must(rule->first_bytes < rule->end_bytes, "a range has bytes");
  must(rule->delay.tv_nsec >= 0 && rule->delay.tv_nsec < 1000000000 &&
           rule->delay.tv_sec >= 0 && rule->delay.tv_sec <= 3600,
       "a delay is what the kernel takes");
  must(rule->delays() || rule->error || rule->short_bytes, "it does something");
  must(rule->short_bytes % 512 == 0, "what is short is in sectors");
  for (uint8_t op = 0; op < 8; op++) (void)rule->is_for(op, size, ~0ULL);
  must(rule->rate < 1 || rule->hits(size), "always is always");
  return 0;
}
