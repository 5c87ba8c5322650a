// SPDX-License-Identifier: MIT
//
// What list prints: a line for each device.

#include <algorithm>
#include <array>

#include "cli/output.h"
#include "sys/names.h"

namespace ublk::cli {

namespace {

using Cells = std::array<std::string, 8>;

// "64M", of a multiple; else bytes.
std::string short_size(uint64_t bytes) {
  constexpr const char* kUnits[] = {"", "K", "M", "G", "T", "P"};
  size_t unit = 0;
  while (bytes && bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    unit++;
  }
  return fmt("{}{}", bytes, kUnits[unit]);
}

std::string program_of(const Device& device) {
  if (!device.bpf || !device.bpf->prog_id) return "-";
  const AttachedState* attached = device.attached();
  return attached ? attached->program : fmt("id {}", device.bpf->prog_id);
}

std::string target_of(const DeviceState& state) {
  return state.target.over.empty()
             ? state.target.type
             : fmt("{}:{}", state.target.type, state.target.over);
}

std::string files_of(const TargetSpec& target) {
  std::string text;
  for (size_t i = 0; i < target.files.size(); i++)
    text += fmt("{}{}{}", i ? " " : "", shown_name(target.files[i]),
                target.failed_legs >> i & 1 ? " (failed)" : "");
  return text.empty() ? "-" : text;
}

Cells cells_of(const Device& device) {
  const auto& state = device.state;
  return {fmt("ublkb{}", device.info.dev_id),
          state && !state->name.empty() ? state->name : "-",
          std::string(state_name(device.info.state)),
          short_size(device.size_bytes()),
          state ? target_of(*state) : "-",
          program_of(device),
          device.server ? fmt("{}", device.server->pid) : "-",
          state ? files_of(state->target) : "-"};
}

}  // namespace

std::string devices_table(const std::vector<Device>& devices) {
  std::vector<Cells> rows = {{"DEVICE", "NAME", "STATE", "SIZE", "TARGET",
                              "PROGRAM", "SERVER", "FILES"}};
  for (const Device& device : devices) rows.push_back(cells_of(device));
  std::array<size_t, std::tuple_size_v<Cells>> widths{};
  for (const Cells& row : rows)
    for (size_t i = 0; i < row.size(); i++)
      widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const Cells& row : rows) {
    for (size_t i = 0; i + 1 < row.size(); i++)
      text += fmt("{:<{}}  ", row[i], widths[i]);
    text += row.back() + "\n";
  }
  text.pop_back();
  return text;
}

}  // namespace ublk::cli
