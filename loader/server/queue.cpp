// SPDX-License-Identifier: MIT
#include "server/queue.h"

#include <cerrno>
#include <utility>

namespace ublk {

namespace {

constexpr size_t kPageBytes = 4096;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

Result<Queue> Queue::create(const QueueConfig& config) {
  std::vector<int> files = {config.char_fd};
  for (const Backing& file : config.target->files)
    files.push_back(file.fd.get());
  const DataPath& path = *config.path;
  // A tag has at most one SQE in flight, but for what its path adds.
  Ring ring = TRY(Ring::for_queue(config.depth * path.sqes_per_tag, files));
  if (path.has_table) TRY(ring.add_buffer_table(config.depth));
  Queue queue(config, std::move(ring));
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
  if (config_.path->has_buffers)
    buffers_ = TRY(MmapRegion::anonymous(stride * config_.depth));
  const auto* descs = reinterpret_cast<const ublksrv_io_desc*>(descs_.data());
  for (size_t tag = 0; tag < ios_.size(); tag++) {
    Io& io = ios_[tag];
    io.tag = static_cast<uint16_t>(tag);
    io.desc = descs + tag;
    if (config_.path->has_buffers) io.buf = buffers_.data() + tag * stride;
    config_.path->init_tag(io);
  }
  return {};
}

Result<void> Queue::fetch_all() {
  for (const Io& io : ios_) {
    io_uring_sqe* sqe = next_sqe();
    if (!sqe) return fail_sys(ENOSPC, "ring entry for tag {}", io.tag);
    prepare_command(sqe, UBLK_U_IO_FETCH_REQ, config_.q_id, io, 0,
                    io.command_addr);
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

void Queue::commit(Io& io, int result, io_uring_sqe* sqe) {
  const DataPath& path = *config_.path;
  // The driver would take what is missing for done.
  if (io.has_data() && result >= 0 &&
      static_cast<uint32_t>(result) < io.len_bytes() &&
      !(path.resumes_reads && io.op() == UBLK_IO_OP_READ))
    result = negative(EIO);
  if (path.finish) sqe = path.finish(path_queue(), io, result, sqe);
  prepare_command(sqe, UBLK_U_IO_COMMIT_AND_FETCH_REQ, config_.q_id, io, result,
                  io.command_addr);
}

void Queue::issue(Io& io, io_uring_sqe* sqe) {
  sqe->user_data = io.tag | kTargetSqe;
  if (config_.path->issue) config_.path->issue(path_queue(), io, sqe);
}

// A command has completed: the tag is given back, or has a request.
void Queue::deliver(Io& io, int res) {
  if (res < 0) {
    live_tags_--;
    return;
  }
  io_uring_sqe* sqe = next_sqe();
  if (config_.path->deliver) {
    const int step = config_.path->deliver(path_queue(), io, res, sqe);
    if (step > 0) return;
    if (step < 0) return commit(io, step, sqe);
  }
  const Target& target = *config_.target;
  if (const auto result = target.ops->start(target, io, sqe))
    commit(io, *result, sqe);
  else
    issue(io, sqe);
}

// The target's SQE has completed.
void Queue::go_on(Io& io, int res) {
  const Target& target = *config_.target;
  io_uring_sqe* sqe = next_sqe();
  // Without its buffer it was not issued.
  if (io.register_error)
    return commit(io, std::exchange(io.register_error, 0), sqe);
  if (const auto result = target.ops->done(target, io, res, sqe))
    commit(io, *result, sqe);
  else
    issue(io, sqe);
}

Result<void> Queue::handle(uint64_t user_data, int res) {
  Io& io = ios_[user_data & kTagMask];
  switch (user_data & ~kTagMask) {
    case kCommandSqe:
      deliver(io, res);
      return {};
    case kTargetSqe:
      go_on(io, res);
      return {};
    case kRegisterSqe:
      io.register_error = res;
      io.registered = Io::Registered::no;
      return {};
    default:
      // The driver waits for the buffer for ever.
      return fail_sys(errno_of(res), "giving back the buffer of tag {}",
                      io.tag);
  }
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
      TRY(handle(cqe->user_data, cqe->res));
      seen++;
    }
    io_uring_cq_advance(ring_.get(), seen);
  }
  return {};
}

}  // namespace ublk
