// SPDX-License-Identifier: MIT
//
// zero copy: the request's own pages are registered with the ring, at the
// tag's place in its table of buffers, before the target's first SQE on them,
// and given back when the request ends. Targets prepare READ and WRITE, with
// the offset in the data as their address, and the path makes them _FIXED.
//
// REGISTER and the target's SQE are linked. Without the link io_uring promises
// no order between SQEs of one submission, and the second looks its buffer up
// when it is issued. A failure of the first also ends the second, which
// must not run on a buffer that is not there. UNREGISTER and the commit need no
// order: the driver ends the request when both are done, and only then the tag
// has another. Both are sent together, and a success is not reported, so a
// request wakes the server as often as without registration.

#include "server/data_path.h"

namespace ublk {

void issue_fixed(const PathQueue& queue, Io& io, io_uring_sqe* sqe) {
  if (sqe->opcode == IORING_OP_READ)
    sqe->opcode = IORING_OP_READ_FIXED;
  else if (sqe->opcode == IORING_OP_WRITE)
    sqe->opcode = IORING_OP_WRITE_FIXED;
  else
    return;
  sqe->buf_index = io.tag;
  if (io.registered != Io::Registered::no) return;
  io_uring_sqe* data = io_uring_get_sqe(queue.ring);
  *data = *sqe;
  prepare_command(sqe, UBLK_U_IO_REGISTER_IO_BUF, queue.q_id, io, 0, io.tag);
  sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
  sqe->user_data = io.tag | kRegisterSqe;
  io.registered = Io::Registered::by_server;
}

void finish_fixed(const PathQueue& queue, Io& io, int&) {
  const auto registered = std::exchange(io.registered, Io::Registered::no);
  if (registered != Io::Registered::by_server) return;
  io_uring_sqe* sqe = io_uring_get_sqe(queue.ring);
  prepare_command(sqe, UBLK_U_IO_UNREGISTER_IO_BUF, queue.q_id, io, 0, io.tag);
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  sqe->user_data = io.tag | kUnregisterSqe;
}

namespace {
void init_tag(Io&) {}  // commands have no address
}  // namespace

const DataPath kZeroCopyPath = {
    .name = "zero-copy",
    .summary = "the request's own pages, registered by the server",
    .flags = UBLK_F_SUPPORT_ZERO_COPY,
    .needs = "UBLK_F_SUPPORT_ZERO_COPY of ublk_drv (linux 6.15 and later)",
    .has_buffers = false,
    .has_table = true,
    .sqes_per_tag = 2,
    .resumes_reads = false,
    .init_tag = init_tag,
    .deliver = nullptr,
    .issue = issue_fixed,
    .finish = finish_fixed,
};

}  // namespace ublk
