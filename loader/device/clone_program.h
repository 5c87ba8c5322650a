// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ctrl/control.h"
#include "device/loaded_clone.h"
#include "device/state.h"
#include "device/workplace.h"
#include "server/clone.h"
#include "server/target.h"
#include "sys/backing.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// The program half of a clone, and the maps that it has in common with the
// server. They outlive the server as long as it is attached. Opened, and loaded
// unless another clone has it already, while the server has all mounts.
class CloneProgram {
 public:
  // With new maps, for attach(). EOPNOTSUPP: a kernel or a chain with which the
  // program cannot serve, says why. ENOENT: it is not installed.
  static Result<std::unique_ptr<CloneProgram>> load(const Target& target);
  // The same, for a device whose program, `attached`, has another top layer: in
  // its place. 0: it has none.
  static Result<std::unique_ptr<CloneProgram>> load_for_new_top(
      const Target& target, uint32_t dev_id, uint32_t attached);
  // Of a device to which it is attached, with the maps that it has. ENOENT:
  // these are not the maps of this layer.
  static Result<std::unique_ptr<CloneProgram>> adopt(const Target& target,
                                                     CloneMaps maps);
  // The same, but of a chain that has become shorter: another program, with the
  // same maps, is to take the place of `attached`.
  static Result<std::unique_ptr<CloneProgram>> adopt_for_less(
      const Target& target, CloneMaps maps, uint32_t dev_id, uint32_t attached);

  // Whether the program could serve the chain if its disk had this size.
  static Result<void> check(const LayerChain& chain, uint64_t size_bytes);

  // Makes the maps of a new program for this size, which is not the layer's
  // yet.
  Result<void> make_maps_for(const LayerChain& chain, uint64_t size_bytes);
  // Of the version whose programs had maps of their own, which the program that
  // serves all clones cannot have.
  Result<bool> has_old_maps() const;

  // Before the queues of the clone run: makes it theirs, with the map for its
  // memory, which a new program gets here unless it has one.
  Result<void> connect(Target& target, uint32_t dev_id);
  // After that.
  CloneMaps maps() const { return maps_; }
  bool is_attached() const { return !loaded_; }
  // Whether it is to take the place of another, which the device has.
  bool replaces() const { return replaces_; }
  // To a device that is live, or has no server just now. From then on the map
  // outlives the server.
  Result<AttachedState> attach(Control& control, uint32_t dev_id, Clone& clone);
  // Whether the program that is attached has these maps, and so serves with
  // them.
  bool shares_maps() const { return !fresh_; }
  // Of one whose maps are the attached program's: that changes the top layer no
  // more, and nothing that it has begun does. All changes are passed until
  // somebody connects it again.
  Result<void> freeze(Control& control, uint32_t dev_id);
  // EOPNOTSUPP: the attached program is of a version that cannot be.
  Result<void> check_can_freeze() const;
  Result<void> thaw() { return set_frozen(false); }

 private:
  CloneProgram() = default;
  Result<void> set_frozen(bool frozen);
  Result<void> prepare(const LayerChain& chain,
                       std::shared_ptr<const LoadedClone> loaded);
  Result<void> make_maps(uint64_t words);
  Result<void> find_maps(const Target& target, CloneMaps maps);

  std::shared_ptr<const LoadedClone> loaded_;
  ublk_bpf_clone_chain chain_{};
  std::vector<Backing> files_;
  UniqueFd control_;    // for drains
  bool fresh_ = false;  // its maps are, too
  bool replaces_ = false;
  CloneMaps maps_{};
  UniqueFd bits_;
  UniqueFd shared_;
};

// Whether a clone's program, which the device has attached, has these maps.
Result<bool> serves_with(uint32_t prog_id, uint32_t dev_id, CloneMaps maps);

// Attaches it and notes that in the device's state.
Result<void> attach_clone(Workplace& place, CloneProgram& program,
                          uint32_t dev_id, Clone& clone);

// The top's words of a clone's map of bits (Layer::OpenOptions::memory), for
// writing out what the disk lacks of it. ENOENT: the map is gone, or another
// layer's.
Result<Clone::Memory> map_bits(CloneMaps maps, const LayerHeader& layer);

}  // namespace ublk
