// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "ctrl/control.h"
#include "device/clone_program.h"
#include "device/new_top.h"
#include "device/state.h"
#include "device/track_program.h"
#include "device/workplace.h"
#include "server/target.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// A device before it gets its new server.
struct Heir {
  ublksrv_ctrl_dev_info before{};
  DeviceState state;
  Target target;
  bool live = false;
  std::unique_ptr<CloneProgram> program{};  // of a clone that has one
  UniqueFd held{};                          // that nobody else gives it one
  // What it is to be instead.
  std::unique_ptr<NewTop> next{};
  std::unique_ptr<CloneProgram> next_program{};
  std::unique_ptr<TrackProgram> tracker{};  // of a device that tracks
  // Of a clone that is to have another map, with `next_program`: the same
  // layers once more. With another size, too, if there is one.
  std::optional<Target> renewed{};
  std::optional<uint64_t> size_bytes{};
};

// What the kernel says of its program; ->prog_id is 0 if there is none.
Result<ublk_bpf_info> attached_program(Control& control, uint32_t dev_id);
// EAGAIN: it has one, and should not, or the other way round.
Result<void> check_program(Workplace& place, uint32_t dev_id, bool attached);

// While the server has all mounts. A failure of the first may leave a note of
// what is not there, which is resolved later.
Result<void> prepare_new_top(Workplace& place, Heir& heir,
                             const NewTopRequest& request);
Result<void> prepare_size(Workplace& place, Heir& heir, uint64_t bytes);
// For a disk of this size.
Result<void> prepare_new_map(Workplace& place, Heir& heir, uint64_t bytes);

// Of a device without a server.

// Makes the clone its new server's.
Result<void> connect(Workplace& place, Heir& heir);
// After that: it becomes what was prepared. An error that is given as a value
// has left it as it was.
Result<std::optional<Error>> change_clone(Workplace& place, Heir& heir);

}  // namespace ublk
