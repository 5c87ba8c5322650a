// SPDX-License-Identifier: MIT
#pragma once

#include <ublk_bpf_maps.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/state.h"
#include "sys/error.h"
#include "sys/unique_fd.h"

namespace ublk {

// A clone.bpf.o that the kernel has. It serves any number of clones, each with
// entries of its own in the program's maps, and is there as long as one of them
// has it attached. To load it takes the verifier longer than all else that an
// `add` does.
class LoadedClone {
 public:
  // One of this version's object, whoever has loaded it, or else a new one.
  // EOPNOTSUPP: this kernel takes none. ENOENT: it is not installed.
  static Result<std::shared_ptr<const LoadedClone>> get();
  // The same, for a device that has the program `attached`: not that one, nor
  // another that has entries of the device, which may be in use still.
  static Result<std::shared_ptr<const LoadedClone>> get_other(
      uint32_t dev_id, uint32_t attached);
  // All that there are, of whatever version.
  static Result<std::vector<LoadedClone>> all();

  uint32_t prog_id() const { return prog_id_; }
  int fd() const { return program_.get(); }
  int complete_fd() const { return complete_.get(); }
  // Of one that get() gave: the path of the object.
  const std::string& object() const { return object_; }

  // Of one that get() gave, the entries of a device that has another program,
  // or none. EOPNOTSUPP: the maps have none for a device of this number.
  Result<void> enter(uint32_t dev_id, int bits_fd, int shared_fd,
                     const ublk_bpf_clone_chain& chain) const;
  // Of a device that does not have it attached, and has nothing in it in
  // flight: its maps go, unless somebody else has them.
  Result<void> leave(uint32_t dev_id) const;
  CloneMaps maps_of(uint32_t dev_id) const;
  // Those that have entries.
  std::vector<uint32_t> dev_ids() const;

 private:
  static Result<LoadedClone> get_if(
      const std::function<bool(const LoadedClone&)>& fits);
  bool is_of(uint64_t build) const;

  std::string object_;
  uint32_t prog_id_ = 0;
  UniqueFd program_;
  UniqueFd complete_;
  // Its maps.
  UniqueFd bits_;
  UniqueFd shared_;
  UniqueFd chain_;
  UniqueFd constants_;
};

// Takes a device's entries out of every program that has some. Of a device that
// is stopped and not deleted yet: then its number is nobody else's.
Result<void> leave_loaded_clones(uint32_t dev_id);
// The same, but only entries with these maps, whoever has the number now.
Result<void> leave_loaded_clones(uint32_t dev_id, CloneMaps maps);
// The same, but in all except the program that the device has attached, which
// retires no other.
Result<void> leave_other_clones(uint32_t dev_id, uint32_t attached);

}  // namespace ublk
