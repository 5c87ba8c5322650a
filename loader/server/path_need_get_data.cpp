// SPDX-License-Identifier: MIT
//
// need get data: as copy, but a WRITE is announced without its data, which the
// driver copies when it is asked to. For servers that have no memory to spare
// for tags that wait; ours has, so it is for those who ask for it.

#include "server/data_path.h"

namespace ublk {

namespace {

void init_tag(Io& io) { io.command_addr = reinterpret_cast<uintptr_t>(io.buf); }

int deliver(const PathQueue& queue, Io& io, int res, io_uring_sqe* sqe) {
  if (res != UBLK_IO_RES_NEED_GET_DATA) return 0;
  prepare_command(sqe, UBLK_U_IO_NEED_GET_DATA, queue.q_id, io, 0,
                  io.command_addr);
  return 1;
}

}  // namespace

const DataPath kNeedGetDataPath = {
    .name = "need-get-data",
    .summary = "as copy, a write's data by a second command",
    .flags = UBLK_F_NEED_GET_DATA,
    .needs = "UBLK_F_NEED_GET_DATA of ublk_drv (linux 6.1 and later)",
    .has_buffers = true,
    .has_table = false,
    .sqes_per_tag = 1,
    .resumes_reads = true,
    .init_tag = init_tag,
    .deliver = deliver,
    .issue = nullptr,
    .finish = nullptr,
};

}  // namespace ublk
