// SPDX-License-Identifier: MIT
#include "server/queue.h"

#include <cerrno>
#include <charconv>
#include <utility>

#include "server/track.h"

namespace ublk {

namespace {

// A fetch and a commit.
constexpr unsigned kBatchCommands = 2;
constexpr size_t kPageBytes = 4096;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

constexpr std::string_view kThreadPrefix = "ublk";
constexpr size_t kMostThreadName = 15;  // TASK_COMM_LEN, without its end

}  // namespace

std::string queue_thread_name(uint32_t dev_id, uint16_t q_id) {
  return fmt("{}{}q{}", kThreadPrefix, dev_id, q_id).substr(0, kMostThreadName);
}

std::optional<uint32_t> device_of_thread(std::string_view name) {
  if (!name.starts_with(kThreadPrefix)) return std::nullopt;
  name.remove_prefix(kThreadPrefix.size());
  uint32_t dev_id = 0;
  const auto [end, bad] =
      std::from_chars(name.data(), name.data() + name.size(), dev_id);
  if (bad != std::errc() || end == name.data() + name.size() || *end != 'q')
    return std::nullopt;
  return dev_id;
}

Result<Queue> Queue::create(const QueueConfig& config) {
  std::vector<int> files = {config.char_fd};
  for (const Backing& file : config.target->files)
    files.push_back(file.fd.get());
  const auto& more = config.target->more_files;
  files.insert(files.end(), more.begin(), more.end());
  const DataPath& path = *config.path;
  // A tag has at most one SQE in flight, except what its path adds.
  const bool batch = config.dev_flags & UBLK_F_BATCH_IO;
  const unsigned entries = config.depth * path.sqes_per_tag;
  Ring ring =
      TRY(Ring::for_queue(batch ? entries + kBatchCommands : entries, files));
  if (path.has_table) TRY(ring.add_buffer_table(config.depth));
  Queue queue(config, std::move(ring));
  TRY(queue.map());
  if (!batch) {
    TRY(queue.fetch_all());
    return queue;
  }
  queue.batch_ =
      TRY(Batch::create(queue.ring_.get(), {.q_id = config.q_id,
                                            .depth = config.depth,
                                            .dev_flags = config.dev_flags}));
  TRY(queue.batch_->start(queue.ios_));
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
  if (path.finish) path.finish(path_queue(), io, result);
  if (batch_) {
    live_tags_--;
    return batch_->commit(io, result);
  }
  prepare_command(sqe, UBLK_U_IO_COMMIT_AND_FETCH_REQ, config_.q_id, io, result,
                  io.command_addr);
  if (ending_) [[unlikely]] {
    io.parted = true;
    live_tags_--;
  }
}

void Queue::issue(Io& io, io_uring_sqe* sqe) {
  if (batch_) {
    sqe = io_uring_get_sqe(ring_.get());
    *sqe = draft_;
  }
  sqe->user_data = io.tag | kTargetSqe;
  if (config_.path->issue) config_.path->issue(path_queue(), io, sqe);
}

// A command has completed: the tag is given back, or has a request.
void Queue::deliver(Io& io, int res) {
  if (ending_ && std::exchange(io.parted, false)) [[unlikely]]
    live_tags_++;
  if (res < 0) {
    ending_ = true;
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
  if (io.register_error) {
    io.steps.reset();
    if (target.track) target.track->end(io);
    return commit(io, std::exchange(io.register_error, 0), sqe);
  }
  if (const auto result = target.ops->done(target, io, res, sqe))
    commit(io, *result, sqe);
  else
    issue(io, sqe);
}

Result<void> Queue::fetched(const io_uring_cqe& cqe) {
  for (const uint16_t tag : TRY(batch_->fetched(cqe))) {
    live_tags_++;
    deliver(ios_[tag], UBLK_IO_RES_OK);
  }
  batch_->give_back(cqe);
  return {};
}

Result<void> Queue::handle(const io_uring_cqe& cqe) {
  Io& io = ios_[cqe.user_data & kTagMask];
  switch (cqe.user_data & ~kTagMask) {
    case kCommandSqe:
      deliver(io, cqe.res);
      return {};
    case kTargetSqe:
      go_on(io, cqe.res);
      return {};
    case kFetchSqe:
      return fetched(cqe);
    case kRegisterSqe:
      io.register_error = cqe.res;
      io.registered = Io::Registered::no;
      return {};
    case kUnregisterSqe:
      // The driver waits for the buffer for ever.
      return fail_sys(errno_of(cqe.res), "giving back the buffer of tag {}",
                      io.tag);
    default:
      return fail_sys(errno_of(cqe.res), "commit of a batch");
  }
}

bool Queue::live() const {
  return live_tags_ || (batch_ && (batch_->fetching() || batch_->pending()));
}

Result<void> Queue::run() {
  while (live()) {
    const unsigned wait = batch_ && batch_->pending() ? 0 : 1;
    const int ret = io_uring_submit_and_wait(ring_.get(), wait);
    const int code = errno_of(ret);
    // EBUSY and EAGAIN: completions have to be taken first.
    if (code && code != EINTR && code != EBUSY && code != EAGAIN)
      return fail_sys(code, "waiting for requests");
    const bool taken = io_uring_sq_ready(ring_.get()) == 0;
    unsigned head, seen = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring_.get(), head, cqe) {
      TRY(handle(*cqe));
      seen++;
    }
    io_uring_cq_advance(ring_.get(), seen);
    if (batch_) batch_->flush(taken);
  }
  // Nothing completes any more that could be waited for.
  if (io_uring_sq_ready(ring_.get())) io_uring_submit(ring_.get());
  return {};
}

}  // namespace ublk
