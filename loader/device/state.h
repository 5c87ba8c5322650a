// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/target.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

inline constexpr const char* kStateDir = "/run/ublk-bpf";
inline constexpr int kStateVersion = 1;

// What the kernel does not remember about an attached program.
struct AttachedState {
  uint32_t prog_id = 0;  // the rest is valid while the kernel has the same
  std::string program;
  std::string object;                        // absolute path
  std::vector<std::string> files;            // absolute paths
  std::map<std::string, std::string> knobs;  // JSON values
};

// What the kernel does not remember about a device: N.json.
struct DeviceState {
  uint32_t dev_id = 0;
  // Tells a device from a later one with the same number.
  std::string instance;
  TargetSpec target;
  std::optional<AttachedState> attached;
};

std::string state_to_json(const DeviceState& state);
// EPROTO: cut short, of another version, or something else altogether.
Result<DeviceState> state_from_json(std::string_view text);

// The directory of the state files. Each change is atomic, and changes by
// several processes follow one another. Destruction changes nothing.
class StateStore {
 public:
  // Creates the directory if need be.
  static Result<StateStore> open(const std::string& dir = kStateDir);
  // Without creating it: empty if it is not there.
  static StateStore open_existing(const std::string& dir = kStateDir);

  // ENOENT: this device is not ours.
  Result<DeviceState> load(uint32_t dev_id) const;
  Result<void> save(const DeviceState& state) const;
  // Notes, or with nullopt forgets, the attached program, if there still is a
  // state of this device.
  Result<void> set_attached(uint32_t dev_id,
                            std::optional<AttachedState> attached) const;
  // Removes the state unless it is of another instance. "" is any.
  Result<void> remove(uint32_t dev_id, const std::string& instance) const;

 private:
  StateStore(std::string dir, UniqueFd fd)
      : dir_(std::move(dir)), fd_(std::move(fd)) {}
  Result<UniqueFd> lock() const;

  std::string dir_;
  UniqueFd fd_;
};

}  // namespace ublk
