// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/target.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// "/run/ublk-bpf"; of a user who is not root, in $XDG_RUNTIME_DIR.
std::string state_dir();
inline constexpr int kStateVersion = 1;

// Files of a BPF file system that keep a program's maps reachable by name.
struct Pins {
  std::string dir;  // absolute, of this device alone; "": none
  std::vector<std::string> names;
};

// What the kernel does not remember about an attached program.
struct AttachedState {
  uint32_t prog_id = 0;  // the rest is valid while the kernel has the same
  std::string program;
  std::string object;              // absolute path
  std::vector<std::string> files;  // absolute paths
  // Which files these are; empty: those of the device's target, or noted by an
  // earlier version.
  std::vector<FileIdentity> identities{};
  std::map<std::string, std::string> knobs;  // JSON values
  Pins pins{};
};

// The kernel's ids of the maps that a clone and its program have in common; 0:
// there are none, see uapi/ublk_bpf_maps.h.
struct CloneMaps {
  uint32_t bits = 0;
  uint32_t shared = 0;
};

// A clone that is to get another top layer, see device/new_top.h.
struct NewTopState {
  // As of TargetSpec, with the new top.
  std::vector<FileIdentity> identities{};
  std::vector<LayerFile> layers{};
  std::string made{};    // the new layer, before it is in its place; absolute
  std::string sealed{};  // the other name of the old one; "": it has none
  // The rest of the state has it: the program that is attached may still be the
  // old one's, and no server has the new one yet.
  bool in_place = false;
};

// A clone that is being made independent of what is below it, see
// server/flatten.h.
struct FlattenState {
  uint64_t bytes_per_second = 0;  // 0: no limit
  uint64_t size_bytes = 0;        // of the disk
  uint64_t looked_at_bytes = 0;
  uint64_t copied_bytes = 0;
  bool done = false;    // the layer needs nothing below it any more
  std::string error{};  // why it ended before
  bool ended() const { return done || !error.empty(); }
};

// Likewise of a device that tracks what is written, and its program.
struct TrackMaps {
  uint32_t bits = 0;
  uint32_t shared = 0;
};

// What the kernel does not remember about a device: N.json.
struct DeviceState {
  uint32_t dev_id = 0;
  // Which the user has given it; "": none. See sys/device_name.h.
  std::string name{};
  // Tells a device from a later one with the same number.
  std::string instance;
  // The same for all devices that one server has.
  std::string server{};
  TargetSpec target;
  std::optional<AttachedState> attached;
  // CPUs that a user wants a queue's thread on, by q_id. Others have theirs of
  // the driver.
  std::map<uint16_t, std::vector<uint16_t>> affinity{};
  // Those of the last program that this tool has attached.
  Pins pins() const { return attached ? attached->pins : Pins{}; }
  // The kernel's id of the map by which a mirror's program knows which legs
  // have failed; 0: there is none.
  uint32_t legs_map = 0;
  // Likewise of a clone that has its program.
  CloneMaps clone_maps{};
  std::optional<NewTopState> new_top{};
  std::optional<FlattenState> flatten{};
  TrackMaps track_maps{};
};

// "N.map": see device/map_file.h.
std::string map_file_name(uint32_t dev_id);

// "N.udev": what a udev rule imports, of a device that has a name.
std::string udev_file_name(uint32_t dev_id);

std::string state_to_json(const DeviceState& state);
// EPROTO: cut short, of another version, or something else altogether.
Result<DeviceState> state_from_json(std::string_view text);

// The directory of the state files. Each change is atomic, and changes by
// several processes follow one another. Destruction changes nothing.
class StateStore {
 public:
  // Creates the directory if need be.
  static Result<StateStore> open(const std::string& dir = state_dir());
  // Without creating it: empty if it is not there.
  static StateStore open_existing(const std::string& dir = state_dir());

  // The same directory once more.
  Result<StateStore> duplicate() const;

  // ENOENT: this device is not ours. EPROTO: it is not the state of this
  // device.
  Result<DeviceState> load(uint32_t dev_id) const;
  // Differs from that of before once a state has been changed: each change
  // makes a new file.
  struct Stamp {
    uint64_t ino = 0;
    int64_t changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  std::optional<Stamp> stamp_of(uint32_t dev_id) const;
  Result<void> save(const DeviceState& state) const;
  // Of a new device. EEXIST: another one has its name, of which `is_there` says
  // that there still is such a device.
  Result<void> save_new(
      const DeviceState& state,
      const std::function<bool(uint32_t dev_id)>& is_there) const;
  // Changes the state of this device, if there still is one.
  Result<void> change(uint32_t dev_id,
                      const std::function<void(DeviceState&)>& with) const;
  // Numbers of the devices that there are states of, in order.
  std::vector<uint32_t> ids() const;
  // Names of the other files, except the locks.
  std::vector<std::string> other_files() const;
  Result<void> remove_file(const std::string& name) const;
  // Another file there, for its owner only. ENOENT also without a directory.
  Result<UniqueFd> open_file(const std::string& name, int flags) const;

  enum class Hold {
    shared,     // a device is being added or recovered
    exclusive,  // none is
  };
  // Until the descriptor is closed. An invalid one if there is no directory.
  // EBUSY: in vain for as long as `wait`.
  Result<UniqueFd> hold(Hold how,
                        std::chrono::milliseconds wait = kHoldWait) const;
  static constexpr std::chrono::milliseconds kHoldWait{30'000};
  // Until the descriptor is closed: no other process gives this device a
  // server. EBUSY: in vain for as long as `wait`.
  Result<UniqueFd> hold_device(
      uint32_t dev_id, std::chrono::milliseconds wait = kHoldWait) const;
  // Removes the state, its name, and the map of a clone, unless it is of
  // another instance. "" is any.
  Result<void> remove(uint32_t dev_id, const std::string& instance) const;

 private:
  StateStore(std::string dir, UniqueFd fd)
      : dir_(std::move(dir)), fd_(std::move(fd)) {}
  Result<UniqueFd> lock() const;
  Result<void> write(const DeviceState& state) const;
  std::vector<std::string> files() const;

  std::string dir_;
  UniqueFd fd_;
};

// States that are looked at again and again: each is read, which takes as long
// as a hundred looks at whether it has changed, only if it has.
class KnownStates {
 public:
  // Borrowed.
  explicit KnownStates(const StateStore& states) : states_(&states) {}
  const StateStore& store() const { return *states_; }
  // nullptr: there is none, or it cannot be read. Valid until the next call for
  // this device.
  const DeviceState* find(uint32_t dev_id);

 private:
  struct Known {
    StateStore::Stamp stamp;
    std::optional<DeviceState> state;
  };
  const StateStore* states_;
  std::map<uint32_t, Known> known_;
};

}  // namespace ublk
