// SPDX-License-Identifier: MIT
//
// auto zero copy: as zero copy, but the driver registers a request's pages at
// the tag's place before it delivers the request, and takes them back at the
// commit. What it could not register, for want of memory, it delivers all the
// same and says so; then the server tries, as on the zero-copy path.

#include "server/data_path.h"

namespace ublk {

namespace {

void init_tag(Io& io) {
  const ublk_auto_buf_reg reg = {.index = io.tag,
                                 .flags = UBLK_AUTO_BUF_REG_FALLBACK,
                                 .reserved0 = 0,
                                 .reserved1 = 0};
  io.sqe_addr = ublk_auto_buf_reg_to_sqe_addr(&reg);
}

int deliver(const PathQueue&, Io& io, int, io_uring_sqe*) {
  if (io.has_data() && !(io.desc->op_flags & UBLK_IO_F_NEED_REG_BUF))
    io.registered = Io::Registered::by_driver;
  return 0;
}

}  // namespace

const DataPath kAutoZeroCopyPath = {
    .name = "auto-zero-copy",
    .summary = "the request's own pages, registered by the driver",
    .flags = UBLK_F_AUTO_BUF_REG | UBLK_F_SUPPORT_ZERO_COPY,
    .needs =
        "UBLK_F_AUTO_BUF_REG and UBLK_F_SUPPORT_ZERO_COPY of ublk_drv "
        "(linux 6.16 and later)",
    .has_buffers = false,
    .has_table = true,
    .sqes_per_tag = 2,
    .resumes_reads = false,
    .init_tag = init_tag,
    .deliver = deliver,
    .issue = issue_fixed,
    .finish = finish_fixed,
};

}  // namespace ublk
