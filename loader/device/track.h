// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ctrl/control.h"
#include "device/serve.h"
#include "device/state.h"
#include "device/track_program.h"
#include "layer/track_file.h"
#include "server/target.h"
#include "sys/error.h"

namespace ublk {

// Before the queues of a device run that tracks what is written: makes its
// track file its own, with memory that outlives the server: the program's maps,
// or without one N.map (device/map_file.h), which begins with a struct
// ublk_bpf_track. `recovered`: that of the server before, if there is some. Of
// other targets nothing. EBUSY: the file is in use.
Result<void> connect_track(const StateStore& states, const ServeHooks& hooks,
                           uint32_t dev_id, const Target& target,
                           const TrackProgram* program, bool recovered);

// Of a device that has stopped, and that no server has: saves in the track file
// what its memory says, if there is some. What cannot be saved counts as
// changed.
Result<void> write_track_out(const StateStore& states,
                             const DeviceState& state);

// What `track mark` has done.
struct Marked {
  std::string file;
  TrackMark mark{};
  std::optional<TrackMark> ended{};  // the mark before it
  uint64_t changed_bytes = 0;        // since then
  std::optional<TrackMark> dropped{};
};
// A new period of what is written to a device begins: all that is not done when
// this returns is in it. EEXIST: there is a mark of that name. ENOSPC and the
// like: nothing has changed. EAGAIN: what was begun before has not ended.
Result<Marked> mark_device(Control& control, const StateStore& states,
                           uint32_t dev_id, const std::string& name);

// What was written since a mark.
struct Tracked {
  std::string file;
  std::string image;
  UniqueFd image_fd;
  TrackHeader header;
  std::vector<TrackMark> marks;
  std::optional<TrackMark> since;
  std::string why;  // all counts as changed; "": only that of `bits` does
  TrackBits bits;
};
// `since`: the name of a mark, "" the last one. ENOENT: there is none of that
// name, or no such file.
Result<Tracked> list_tracked(const StateStore& states, const std::string& file,
                             const std::string& since);
// The track file of a device. EINVAL: it has none.
Result<std::string> track_file_of(const StateStore& states, uint32_t dev_id);

}  // namespace ublk
