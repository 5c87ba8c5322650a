// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>
#include <ublk_bpf.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/steps.h"
#include "sys/backing.h"
#include "sys/error.h"
#include "sys/ublk_cmd.h"

namespace ublk {

// One of the files that a clone is made of.
struct LayerFile {
  std::string path;
  std::string uuid;  // ""; it is not a layer, but a base that is a plain file
};

// What a user asks of a target. Kept in the state file, for recovery.
struct TargetSpec {
  std::string type;
  std::vector<std::string> files;
  // What the files have to be, in their order; none: whatever they are. After
  // they have been opened, what they are.
  std::vector<FileIdentity> identities{};
  uint64_t size_bytes = 0;    // 0: what the file has, or the target's default
  uint64_t offset_bytes = 0;  // of the device's first byte in the file
  uint32_t block_bytes = 0;   // 0: the smallest that the file allows
  uint32_t max_io_bytes = 0;
  uint64_t chunk_bytes = 0;  // no request crosses a multiple of it; 0: no such
  bool read_only = false;
  bool buffered = false;
  bool write_back = false;  // has a cache to flush, even if the file has none
  std::string over{};       // the target that `fault` wraps
  std::vector<std::string> faults{};  // its rules, see server/fault_rule.h
  uint32_t failed_legs = 0;  // mirror: bit N: files[N] lacks what was written
  // Clone: files[0] and what is below it, the topmost first, as it was when it
  // was opened last. `identities` has them all.
  std::vector<LayerFile> layers{};
  // Not kept: else the device has its limits, whatever the files can do.
  bool is_new = true;
  bool fill = true;  // null: reads give zeroes where the server has no buffer
  // Clone, not kept: see Clone::Options.
  bool base_later = false;
  // Loop: the file that notes which blocks were written, and how large they
  // are; 0: as in the file. "": none.
  std::string track{};
  uint32_t track_block_bytes = 0;
};

class Clone;
class Legs;
class Track;
struct FaultPlan;
struct FaultRule;
struct TargetOps;

// An opened target. Destruction closes its files, which does nothing to the
// device as long as its queues do not run.
struct Target {
  const TargetOps* ops = nullptr;
  TargetSpec spec;
  std::vector<Backing> files;
  std::vector<int> more_files{};  // of a queue's ring, after these; borrowed
  ublk_params params{};
  // Of `fault` only: what it wraps, which serves with this same Target.
  const TargetOps* inner = nullptr;
  std::shared_ptr<FaultPlan> faults;
  std::shared_ptr<Legs> legs;      // of `mirror` only
  std::shared_ptr<Clone> clone;    // of `clone` only
  std::shared_ptr<Track> track{};  // of `loop`, if it notes what is written
  // What its user should know, although it can be served.
  std::optional<Error> remark{};
};

// Files of a queue's ring, by index.
inline constexpr int kCharFile = 0;
inline constexpr int kFirstTargetFile = 1;

// One tag's request.
struct Io {
  const ublksrv_io_desc* desc = nullptr;
  std::byte* buf = nullptr;  // max_io_bytes of it; nullptr: see data_addr()
  uint32_t done_bytes = 0;
  const FaultRule* delayed_by = nullptr;  // while it waits for its time
  // Of mirror: the leg of the SQE; where it was done, and where in vain.
  uint8_t leg = 0;
  uint8_t legs_done = 0;
  uint8_t legs_failed = 0;
  int leg_error = 0;    // a positive errno
  uint8_t tracked = 0;  // of Track, while it changes the file
  Steps steps{};        // while it takes more than one

  // Of the queue and its data path.
  uint16_t tag = 0;
  enum class Registered : uint8_t { no, by_server, by_driver };
  Registered registered = Registered::no;
  bool parted = false;        // committed while the queue ends, not given back
  int register_error = 0;     // a negative errno
  uint64_t command_addr = 0;  // ublksrv_io_cmd.addr of its commands
  uint64_t sqe_addr = 0;      // sqe->addr of its commands

  uint8_t op() const { return ublksrv_get_op(desc); }
  // A BPF program's plan for it was executed and failed; a part of it may have
  // been done.
  bool failed_in_program() const {
    return desc->op_flags & UBLK_IO_F_BPF_FAILED;
  }
  // Of data, for a request that has any. Not for discards: may overflow.
  uint32_t len_bytes() const { return desc->nr_sectors << 9; }
  bool has_data() const {
    return op() == UBLK_IO_OP_READ || op() == UBLK_IO_OP_WRITE;
  }
  // For an SQE that reads or writes what is not done yet: where it is in the
  // tag's memory. On a data path that gives the server none, the offset in the
  // request's data, and the path sees to the rest.
  void* data_addr() const {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(buf) +
                                   done_bytes);
  }
};

// A target is this table, in a file of its own.
struct TargetOps {
  std::string_view name;
  std::string_view summary;
  bool takes_file;
  uint8_t nr_files = 1;  // that a device has, if it takes any
  bool wraps = false;    // another target, which says whether it takes a file
  // Opens the files and fills in `params` from `spec`.
  Result<void> (*init)(Target& target);
  // Begins a request. Either prepares `sqe` (all but its user_data) or gives
  // the result at once: bytes done, or a negative errno. Must not block.
  std::optional<int> (*start)(const Target& target, Io& io, io_uring_sqe* sqe);
  // Goes on when an SQE has completed with `res`: another one, or the result.
  std::optional<int> (*done)(const Target& target, Io& io, int res,
                             io_uring_sqe* sqe);
  // More about it, in lines for a terminal, the last one without its end.
  std::string_view help = "";
};

std::span<const TargetOps* const> all_targets();
// EINVAL, with the names that there are.
Result<const TargetOps*> find_target(std::string_view name);
// The target that the files are for: `spec.type`, or what that wraps. EINVAL:
// it must or must not wrap another one.
Result<const TargetOps*> file_target(const TargetSpec& spec);
// Whether what serves is the target `mirror`.
bool is_mirror(const TargetSpec& spec);
// Whether it is the target `clone`, whose file does not have the device's bytes
// in their places.
bool is_clone(const TargetSpec& spec);
// Looks up `spec.type` and initialises it.
Result<Target> open_target(const TargetSpec& spec);

// The parameters that do not depend on the backing, for init().
void set_basic_params(Target& target, uint64_t size_bytes,
                      uint32_t block_bytes);

extern const TargetOps kNullTarget;
extern const TargetOps kLoopTarget;
extern const TargetOps kMirrorTarget;
extern const TargetOps kCloneTarget;
extern const TargetOps kFaultTarget;

}  // namespace ublk
