// SPDX-License-Identifier: MIT
#include "server/batch.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "server/data_path.h"

namespace ublk {

namespace {

// IORING_URING_CMD_MULTISHOT, which liburing 2.9 does not know.
constexpr uint32_t kMultishot = 1U << 1;
#ifdef IORING_URING_CMD_MULTISHOT
static_assert(kMultishot == IORING_URING_CMD_MULTISHOT);
#endif
constexpr int kBufGroup = 0;
// The driver brings no more tags at a time.
constexpr unsigned kMostTags = 128;
// If all are in use the driver ends the command, and is asked again.
constexpr unsigned kMostBufs = 64;

}  // namespace

Batch::Batch(io_uring* ring, const Config& config)
    : ring_(ring), config_(config), elem_bytes_(sizeof(ublk_elem_header)) {
  if (config.dev_flags & UBLK_F_AUTO_BUF_REG) {
    flags_ = UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK;
  } else if (!(config.dev_flags &
               (UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY))) {
    flags_ = UBLK_BATCH_F_HAS_BUF_ADDR;
    elem_bytes_ += sizeof(uint64_t);
  }
  // A tag has one result at a time, so neither has more than all of them.
  filling_.reserve(size_t{config.depth} * elem_bytes_);
  sent_.reserve(size_t{config.depth} * elem_bytes_);
  const unsigned tags = std::min<unsigned>(config.depth, kMostTags);
  buf_bytes_ = tags * sizeof(uint16_t);
  nr_bufs_ = std::min(std::bit_ceil(unsigned{config.depth}), kMostBufs);
  tags_.resize(size_t{nr_bufs_} * tags);
}

Result<std::unique_ptr<Batch>> Batch::create(io_uring* ring,
                                             const Config& config) {
  std::unique_ptr<Batch> batch(new Batch(ring, config));
  int ret = 0;
  batch->buf_ring_ =
      io_uring_setup_buf_ring(ring, batch->nr_bufs_, kBufGroup, 0, &ret);
  if (!batch->buf_ring_)
    return fail_sys(errno_of(ret), "a ring of {} buffers", batch->nr_bufs_);
  for (unsigned i = 0; i < batch->nr_bufs_; i++)
    io_uring_buf_ring_add(batch->buf_ring_, batch->buffer(i), batch->buf_bytes_,
                          static_cast<uint16_t>(i),
                          io_uring_buf_ring_mask(batch->nr_bufs_),
                          static_cast<int>(i));
  io_uring_buf_ring_advance(batch->buf_ring_,
                            static_cast<int>(batch->nr_bufs_));
  return batch;
}

Batch::~Batch() {
  if (buf_ring_) io_uring_free_buf_ring(ring_, buf_ring_, nr_bufs_, kBufGroup);
}

unsigned char* Batch::buffer(unsigned index) {
  return reinterpret_cast<unsigned char*>(tags_.data()) +
         size_t{index} * buf_bytes_;
}

void Batch::put(const Io& io, int result) {
  // On the paths that register, the tag's place in the ring's table.
  const ublk_elem_header header = {
      .tag = io.tag, .buf_index = io.tag, .result = result};
  const auto append = [this](const auto& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    filling_.insert(filling_.end(), bytes, bytes + sizeof(value));
  };
  append(header);
  if (flags_ & UBLK_BATCH_F_HAS_BUF_ADDR) append(io.command_addr);
}

void Batch::prepare(io_uring_sqe* sqe, uint32_t op, unsigned nr_elem) {
  *sqe = {};
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->fd = kCharFile;
  sqe->cmd_op = op;
  auto* cmd = reinterpret_cast<ublk_batch_io*>(sqe->cmd);
  cmd->q_id = config_.q_id;
  cmd->nr_elem = static_cast<uint16_t>(nr_elem);
  if (op == UBLK_U_IO_FETCH_IO_CMDS) {
    cmd->elem_bytes = sizeof(uint16_t);
    return;
  }
  cmd->flags = flags_;
  cmd->elem_bytes = elem_bytes_;
  sqe->addr = reinterpret_cast<uintptr_t>(sent_.data());
  sqe->len = static_cast<uint32_t>(sent_.size());
}

void Batch::fetch() {
  io_uring_sqe* sqe = io_uring_get_sqe(ring_);
  prepare(sqe, UBLK_U_IO_FETCH_IO_CMDS, buf_bytes_ / sizeof(uint16_t));
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->uring_cmd_flags = kMultishot;
  sqe->buf_group = kBufGroup;
  sqe->user_data = kFetchSqe;
  fetching_ = true;
}

Result<void> Batch::start(std::span<const Io> ios) {
  for (const Io& io : ios) put(io, 0);
  sent_.swap(filling_);
  filling_.clear();
  io_uring_sqe* sqe = io_uring_get_sqe(ring_);
  prepare(sqe, UBLK_U_IO_PREP_IO_CMDS, static_cast<unsigned>(ios.size()));
  sqe->user_data = kPrepareSqe;
  int ret = io_uring_submit_and_wait(ring_, 1);
  io_uring_cqe* cqe = nullptr;
  if (ret >= 0) ret = io_uring_peek_cqe(ring_, &cqe);
  if (ret < 0)
    return fail_sys(errno_of(ret), "handing over {} tags", ios.size());
  const int res = cqe->res;
  io_uring_cqe_seen(ring_, cqe);
  if (const int code = errno_of(res))
    return fail_sys(code, "handing over {} tags", ios.size());
  fetch();
  ret = io_uring_submit(ring_);
  if (ret < 0) return fail_sys(errno_of(ret), "fetch");
  if (io_uring_peek_cqe(ring_, &cqe) == 0)
    if (const int code = errno_of(cqe->res)) return fail_sys(code, "fetch");
  return {};
}

Result<std::span<const uint16_t>> Batch::fetched(const io_uring_cqe& cqe) {
  if (!(cqe.flags & IORING_CQE_F_MORE)) {
    fetching_ = false;
    const int code = errno_of(cqe.res);
    if (code == ENOBUFS)
      fetch();
    else if (code && code != ENODEV)
      return fail_sys(code, "fetch");
  }
  if (cqe.res <= 0 || !(cqe.flags & IORING_CQE_F_BUFFER))
    return std::span<const uint16_t>{};
  const auto* tags = reinterpret_cast<const uint16_t*>(
      buffer(cqe.flags >> IORING_CQE_BUFFER_SHIFT));
  return std::span(tags, static_cast<size_t>(cqe.res) / sizeof(*tags));
}

void Batch::give_back(const io_uring_cqe& cqe) {
  if (!(cqe.flags & IORING_CQE_F_BUFFER)) return;
  const unsigned index = cqe.flags >> IORING_CQE_BUFFER_SHIFT;
  io_uring_buf_ring_add(buf_ring_, buffer(index), buf_bytes_,
                        static_cast<uint16_t>(index),
                        io_uring_buf_ring_mask(nr_bufs_), 0);
  io_uring_buf_ring_advance(buf_ring_, 1);
}

void Batch::commit(const Io& io, int result) { put(io, result); }

void Batch::flush(bool taken) {
  if (filling_.empty() || !taken) return;
  sent_.swap(filling_);
  filling_.clear();
  io_uring_sqe* sqe = io_uring_get_sqe(ring_);
  prepare(sqe, UBLK_U_IO_COMMIT_IO_CMDS,
          static_cast<unsigned>(sent_.size() / elem_bytes_));
  // A success would wake the thread for nothing. The driver stops short of the
  // end only at a tag that is not the server's to commit.
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  sqe->user_data = kCommitSqe;
}

}  // namespace ublk
