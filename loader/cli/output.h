// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command_line.h"
#include "device/device.h"
#include "device/gc.h"
#include "device/lifecycle.h"
#include "device/probe.h"
#include "sys/error.h"

namespace ublk::cli {

// The error's line on stderr, its detail after it; with `json` an object on
// stdout too. Gives the exit status.
int report(const Error& error, bool json, ExitStatus status = kFailed);
void warn(const Error& error);
// A line on stdout.
void say(const std::string& line);

// JSON, each on one line, so that a reader of a pipe knows when it has all.
std::string device_json(const Device& device);
// The same, and how long the kernel took to attach.
std::string attach_json(const Device& device, std::chrono::nanoseconds took);
std::string devices_json(const std::vector<Device>& devices);
std::string removed_json(const Removed& removed);
std::string features_json(uint64_t features);
std::string features_text(uint64_t features);
std::string info_json(const DeviceDetails& details);
std::string info_text(const DeviceDetails& details);
std::string orphans_json(const std::vector<Orphan>& orphans);
std::string orphan_text(const Orphan& orphan, bool dry_run);
std::string probe_json(const Probe& probe);
std::string error_json(const Error& error);
std::string help_json(const std::string& topic, const std::string& text);
// "dev id 0: nr_hw_queues 1 ...", one line, without its end.
std::string device_line(const Device& device);
// The same and more: several lines, the last one without its end.
std::string device_text(const Device& device);
// A line for each, under a header; without the end of the last one.
std::string devices_table(const std::vector<Device>& devices);
inline constexpr std::string_view kOwnFormat = "ublk-bpf";
// The same as another tool lays it out: "kublk", "ublksrv"; or "ublk-bpf".
// EINVAL, with the names that there are.
using DeviceText = std::string (*)(const Device& device);
Result<DeviceText> find_device_text(std::string_view format);

}  // namespace ublk::cli
