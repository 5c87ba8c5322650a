// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>

#include "ctrl/control.h"
#include "device/state.h"
#include "device/workplace.h"
#include "prog/object.h"
#include "server/target.h"
#include "server/track.h"
#include "sys/backing.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// The program of a device that tracks what is written, track.bpf.o, and the
// maps that it has in common with the server. They outlive the server as long
// as it is attached. Opened, and loaded, while the server has all mounts.
class TrackProgram {
 public:
  // With maps of its own, loaded for attach(). EOPNOTSUPP: a kernel with which
  // it cannot serve, says why. ENOENT: it is not installed.
  static Result<std::unique_ptr<TrackProgram>> load(const Target& target);
  // Of a device to which it is attached, with the maps that it has. ENOENT:
  // they are gone.
  static Result<std::unique_ptr<TrackProgram>> adopt(const Target& target,
                                                     TrackMaps maps);

  TrackMaps maps() const { return maps_; }
  bool is_attached() const { return !object_; }
  Result<TrackMemory> memory(const TrackHeader& header) const;
  // To the live device; notes it in the state.
  Result<void> attach(Workplace& place, uint32_t dev_id);

 private:
  TrackProgram() = default;

  std::optional<ProgramObject> object_;
  std::optional<Backing> file_;
  TrackMaps maps_{};
  UniqueFd bits_;
  UniqueFd shared_;
};

// Those of a state. ENOENT: they are gone, or another device's.
Result<TrackMemory> memory_of(TrackMaps maps, const TrackHeader& header);

// Before a program is loaded that is to take the place of the device's own: it
// is to mark what is written, in the same maps. EBUSY: it does not.
Result<void> share_track(ProgramObject& object, const DeviceState& state);

}  // namespace ublk
