// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "device/latency.h"

namespace ublk {

// What the kernel counts of a disk, whoever serves it: its attribute stat in
// sysfs, which counts since the disk has been there.
enum IoKind { kIoRead, kIoWrite, kIoDiscard, kIoFlush, kNrIoKinds };
inline constexpr std::array<const char*, kNrIoKinds> kIoNames = {
    "read", "write", "discard", "flush"};
// UBLK_IO_OP_* of each.
inline constexpr std::array<uint8_t, kNrIoKinds> kIoOps = {
    UBLK_IO_OP_READ, UBLK_IO_OP_WRITE, UBLK_IO_OP_DISCARD, UBLK_IO_OP_FLUSH};

struct IoCount {
  uint64_t done = 0;
  uint64_t bytes = 0;  // none of a flush
  uint64_t ms = 0;     // from submission to completion, added up
};
struct IoStat {
  std::array<IoCount, kNrIoKinds> kinds{};
  uint64_t in_flight = 0;
  uint64_t busy_ms = 0;  // while there was any
};

// Nothing if it is not such a text.
std::optional<IoStat> parse_io_stat(std::string_view text);
// Of /dev/ublkbN; nothing if it is not there.
std::optional<IoStat> read_io_stat(uint32_t dev_id);

// All that is counted of a device at one time.
struct Sample {
  Device device;
  IoStat io;  // zeroes of a device that has no disk
  // Of a program that keeps a histogram of them.
  std::optional<Latencies> latencies;
};
// Of one device, or of all; without those that vanish meanwhile. Empty: the one
// is not there.
std::vector<Sample> take_samples(Control& control, const StateStore& states,
                                 std::optional<uint32_t> dev_id);

// What has come between two samples of the same device.
struct Activity {
  IoStat io;
  uint64_t redirected = 0;
  uint64_t passed = 0;
  uint64_t failed = 0;
  // Of the server, if it is the same one.
  uint64_t wakeups = 0;
  uint64_t cpu_ns = 0;
  // Of its program, if it keeps a histogram now.
  std::optional<Latencies> latencies;
};
Activity activity(const Sample& before, const Sample& now);

}  // namespace ublk
