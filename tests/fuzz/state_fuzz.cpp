// SPDX-License-Identifier: MIT
//
// State files: whatever is in one, it is read or refused, and what was read is
// written and read again as the same.

#include "device/state.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto state = ublk::state_from_json(text);
  if (!state) {
    must(!state.error().line().empty(), "a refusal says why");
    return 0;
  }
  const std::string written = ublk::state_to_json(*state);
  const auto again = ublk::state_from_json(written);
  must(again.has_value(), "what was written can be read");
  must(ublk::state_to_json(*again) == written, "it is the same");
  return 0;
}
