// SPDX-License-Identifier: MIT
//
// user copy: the server copies, by pread() and pwrite() on /dev/ublkcN, so it
// decides what is copied, and when. By system calls and not by the ring: the
// driver's file cannot be read without blocking, so io_uring would send each
// copy through a worker thread.

#include <unistd.h>

#include <cerrno>

#include "server/data_path.h"

namespace ublk {

namespace {

// Of a byte of a request's data in /dev/ublkcN, as <linux/ublk_cmd.h> has it.
off_t position(const PathQueue& queue, const Io& io, uint32_t off_bytes) {
  return static_cast<off_t>(UBLKSRV_IO_BUF_OFFSET +
                            (uint64_t{queue.q_id} << UBLK_QID_OFF) +
                            (uint64_t{io.tag} << UBLK_TAG_OFF) + off_bytes);
}

// Copies `len_bytes` by `call`, pread or pwrite; 0 or a negative errno.
template <typename Call>
int copy(Call call, const PathQueue& queue, const Io& io, uint32_t len_bytes) {
  for (uint32_t done = 0; done < len_bytes;) {
    const ssize_t ret = call(queue.char_fd, io.buf + done, len_bytes - done,
                             position(queue, io, done));
    if (ret < 0 && errno == EINTR) continue;
    if (ret <= 0) return negative(ret < 0 ? errno : EIO);
    done += static_cast<uint32_t>(ret);
  }
  return 0;
}

void init_tag(Io&) {}  // commands have no address

int deliver(const PathQueue& queue, Io& io, int, io_uring_sqe*) {
  return io.op() == UBLK_IO_OP_WRITE ? copy(::pread, queue, io, io.len_bytes())
                                     : 0;
}

void finish(const PathQueue& queue, Io& io, int& result) {
  if (io.op() == UBLK_IO_OP_READ && result > 0)
    if (const int error = copy(::pwrite, queue, io, io.len_bytes()))
      result = error;
}

}  // namespace

const DataPath kUserCopyPath = {
    .name = "user-copy",
    .summary = "the server copies, by pread() and pwrite()",
    .flags = UBLK_F_USER_COPY,
    .needs = "UBLK_F_USER_COPY of ublk_drv (linux 6.5 and later)",
    .has_buffers = true,
    .has_table = false,
    .sqes_per_tag = 1,
    .resumes_reads = false,
    .init_tag = init_tag,
    .deliver = deliver,
    .issue = nullptr,
    .finish = finish,
};

}  // namespace ublk
