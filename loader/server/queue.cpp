// SPDX-License-Identifier: MIT
#include "server/queue.h"

#include <cerrno>
#include <cstring>

namespace ublk {

namespace {

// user_data: the tag, and whether the target's SQE or a command completed.
constexpr uint64_t kTagMask = 0xffff;
constexpr uint64_t kTargetBit = 1 << 16;

constexpr size_t kPageBytes = 4096;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

Result<Queue> Queue::create(const QueueConfig& config) {
  std::vector<int> files = {config.char_fd};
  for (const Backing& file : config.target->files)
    files.push_back(file.fd.get());
  // A tag has at most one SQE at a time.
  Queue queue(config, TRY(Ring::for_queue(config.depth, files)));
  TRY(queue.map());
  TRY(queue.fetch_all());
  return queue;
}

Result<void> Queue::map() {
  const size_t desc_bytes = sizeof(ublksrv_io_desc);
  const off_t off =
      UBLKSRV_CMD_BUF_OFFSET +
      static_cast<off_t>(
          config_.q_id *
          round_up(UBLK_MAX_QUEUE_DEPTH * desc_bytes, kPageBytes));
  descs_ = TRY_IN(
      "io descriptors",
      MmapRegion::map_file(config_.char_fd, off,
                           round_up(config_.depth * desc_bytes, kPageBytes)));
  // Untouched memory costs nothing, so a deep queue of large buffers is only
  // as large as its use.
  const size_t stride = round_up(config_.max_io_bytes, kPageBytes);
  buffers_ = TRY(MmapRegion::anonymous(stride * config_.depth));
  const auto* descs = reinterpret_cast<const ublksrv_io_desc*>(descs_.data());
  for (size_t tag = 0; tag < ios_.size(); tag++) {
    ios_[tag].desc = descs + tag;
    ios_[tag].buf = buffers_.data() + tag * stride;
  }
  return {};
}

void Queue::prepare_command(io_uring_sqe* sqe, uint32_t op, uint16_t tag,
                            int result) {
  std::memset(sqe, 0, sizeof(*sqe));
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->fd = kCharFile;
  sqe->cmd_op = op;
  sqe->user_data = tag;
  auto* cmd = reinterpret_cast<ublksrv_io_cmd*>(sqe->cmd);
  cmd->q_id = config_.q_id;
  cmd->tag = tag;
  cmd->result = result;
  cmd->addr = reinterpret_cast<uintptr_t>(ios_[tag].buf);
}

Result<void> Queue::fetch_all() {
  for (uint16_t tag = 0; tag < config_.depth; tag++) {
    io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
    if (!sqe) return fail_sys(ENOSPC, "ring entry for tag {}", tag);
    prepare_command(sqe, UBLK_U_IO_FETCH_REQ, tag, 0);
  }
  const int ret = io_uring_submit(ring_.get());
  if (ret < 0)
    return fail_sys(errno_of(ret), "fetch of {} tags", config_.depth);
  // What the driver refuses it refuses at once.
  io_uring_cqe* cqe = nullptr;
  if (io_uring_peek_cqe(ring_.get(), &cqe) == 0)
    if (const int code = errno_of(cqe->res))
      return fail_sys(code, "fetch of tag {}", cqe->user_data & kTagMask);
  live_tags_ = config_.depth;
  return {};
}

void Queue::handle(uint64_t user_data, int res) {
  const auto tag = static_cast<uint16_t>(user_data & kTagMask);
  Io& io = ios_[tag];
  if (!(user_data & kTargetBit) && res != UBLK_IO_RES_OK) {
    live_tags_--;
    return;
  }
  const Target& target = *config_.target;
  io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
  const std::optional<int> result = user_data & kTargetBit
                                        ? target.ops->done(target, io, res, sqe)
                                        : target.ops->start(target, io, sqe);
  if (result)
    prepare_command(sqe, UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, *result);
  else
    sqe->user_data = tag | kTargetBit;
}

Result<void> Queue::run() {
  while (live_tags_) {
    const int ret = io_uring_submit_and_wait(ring_.get(), 1);
    const int code = errno_of(ret);
    // EBUSY and EAGAIN: completions have to be taken first.
    if (code && code != EINTR && code != EBUSY && code != EAGAIN)
      return fail_sys(code, "waiting for requests");
    unsigned head, seen = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring_.get(), head, cqe) {
      handle(cqe->user_data, cqe->res);
      seen++;
    }
    io_uring_cq_advance(ring_.get(), seen);
  }
  return {};
}

}  // namespace ublk
