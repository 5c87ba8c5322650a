// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "server/target.h"
#include "sys/error.h"
#include "sys/ublk_cmd.h"

namespace ublk {

// user_data of a queue's SQEs: the tag in the low 16 bits, then what it is.
enum SqeKind : uint64_t {
  kCommandSqe = 0,              // FETCH, COMMIT_AND_FETCH, NEED_GET_DATA
  kTargetSqe = 1ULL << 16,      // the target's
  kRegisterSqe = 2ULL << 16,    // completes only if it has failed
  kUnregisterSqe = 3ULL << 16,  // completes only if it has failed
  // Of batches, without a tag.
  kPrepareSqe = 4ULL << 16,
  kFetchSqe = 5ULL << 16,
  kCommitSqe = 6ULL << 16,  // completes only if it has failed
};
inline constexpr uint64_t kTagMask = 0xffff;

// What a data path sees of the queue that it works for.
struct PathQueue {
  io_uring* ring;
  int char_fd;
  uint16_t q_id;
};

// How a request's data gets from the driver to the target and back: this
// table, in a file of its own. A target does not know which one it is served
// by, except for the memory that a tag has or has not.
struct DataPath {
  std::string_view name;
  std::string_view summary;
  // UBLK_F_* that the device is added with, and the driver must offer.
  uint64_t flags;
  // For the user: what has to be there, if it is not.
  std::string_view needs;
  // Each tag has max_io_bytes of memory, at Io::buf. Without it the target's
  // SQEs address the data by their offset in it.
  bool has_buffers;
  // The ring has a table of buffers, one per tag.
  bool has_table;
  // SQEs that the completion of one may lead to.
  unsigned sqes_per_tag;
  // What is missing of a READ that was short, the driver asks for again.
  // Everywhere else it takes what was short for whole.
  bool resumes_reads;
  // What every command of the tag has as its address, and in sqe->addr.
  void (*init_tag)(Io& io);
  // The rest may be absent.
  //
  // A command has completed with `res`, which is not an error. 0: the request
  // has come. 1: `sqe` was prepared as another command, the request comes when
  // that completes. Else the negative errno that the request ends with.
  int (*deliver)(const PathQueue& queue, Io& io, int res, io_uring_sqe* sqe);
  // The target has prepared `sqe`, all of it; it may be moved to another of
  // the ring's to make room before it.
  void (*issue)(const PathQueue& queue, Io& io, io_uring_sqe* sqe);
  // The request is about to end with `result`, which may be changed.
  void (*finish)(const PathQueue& queue, Io& io, int& result);
};

// The best that the driver offers.
inline constexpr std::string_view kAutoDataPath = "auto";

std::span<const DataPath* const> all_data_paths();
// EINVAL, with the names that there are.
Result<const DataPath*> find_data_path(std::string_view name);
// The path of a device that has these UBLK_F_*. The driver remembers it, so
// nobody else has to.
const DataPath& data_path_of(uint64_t dev_flags);
// EOPNOTSUPP: the driver, which has these features, lacks what it takes.
Result<void> check_data_path(const DataPath& path, uint64_t features);
// The same of delivery in batches, which goes with any path that has no
// command of its own between delivery and commit. EINVAL: not with this one.
Result<void> check_batch(const DataPath& path, uint64_t features);
// By name, or kAutoDataPath.
Result<const DataPath*> choose_data_path(std::string_view name,
                                         uint64_t features);

// A command to the driver about a tag. `addr` is what it takes there.
inline void prepare_command(io_uring_sqe* sqe, uint32_t op, uint16_t q_id,
                            const Io& io, int result, uint64_t addr) {
  *sqe = {};
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->fd = kCharFile;
  sqe->cmd_op = op;
  sqe->addr = io.sqe_addr;
  sqe->user_data = io.tag | kCommandSqe;
  auto* cmd = reinterpret_cast<ublksrv_io_cmd*>(sqe->cmd);
  cmd->q_id = q_id;
  cmd->tag = io.tag;
  cmd->result = result;
  cmd->addr = addr;
}

// Of the paths on which the target works on the request's own pages.
void issue_fixed(const PathQueue& queue, Io& io, io_uring_sqe* sqe);
void finish_fixed(const PathQueue& queue, Io& io, int& result);

extern const DataPath kCopyPath;
extern const DataPath kUserCopyPath;
extern const DataPath kNeedGetDataPath;
extern const DataPath kZeroCopyPath;
extern const DataPath kAutoZeroCopyPath;

}  // namespace ublk
