// SPDX-License-Identifier: MIT
//
// null: completes every request at once. Writes are lost, reads have whatever
// the server's buffer held, which is zeroes or earlier data of this device. On
// a data path without such a buffer they are read from /dev/zero: otherwise
// what the reader's pages held before, which is anybody's, would come back, as
// it does from null_blk and kublk. --no-fill is for who measures those.

#include <errno.h>
#include <fcntl.h>

#include "server/target.h"

namespace ublk {

namespace {

constexpr uint64_t kDefaultSizeBytes = 250ULL << 30;

Result<void> init(Target& target) {
  const uint64_t size =
      target.spec.size_bytes ? target.spec.size_bytes : kDefaultSizeBytes;
  const uint32_t block =
      target.spec.block_bytes ? target.spec.block_bytes : 512;
  if (size < block)
    return fail(EINVAL,
                "target null: a size of {} bytes is less than a block "
                "of {}",
                size, block);
  set_basic_params(target, size, block);
  ublk_params& params = target.params;
  // It has nothing to flush, but what a program maps to files has.
  if (!target.spec.read_only)
    params.basic.attrs |= UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
  params.types |= UBLK_PARAM_TYPE_DISCARD;
  params.discard.discard_granularity = block;
  params.discard.max_discard_sectors = UINT32_MAX >> 9;
  params.discard.max_write_zeroes_sectors = UINT32_MAX >> 9;
  params.discard.max_discard_segments = 1;
  Backing zero;
  zero.path = "/dev/zero";
  zero.fd = TRY(UniqueFd::open(zero.path, O_RDONLY));
  target.files.push_back(std::move(zero));
  return {};
}

void read_zeroes(const Io& io, io_uring_sqe* sqe) {
  io_uring_prep_read(sqe, kFirstTargetFile, io.data_addr(),
                     io.len_bytes() - io.done_bytes, 0);
  sqe->flags = IOSQE_FIXED_FILE;
}

std::optional<int> start(const Target& target, Io& io, io_uring_sqe* sqe) {
  if (!io.has_data()) return 0;
  if (io.op() == UBLK_IO_OP_READ && !io.buf && target.spec.fill) {
    io.done_bytes = 0;
    read_zeroes(io, sqe);
    return std::nullopt;
  }
  return static_cast<int>(io.len_bytes());
}

std::optional<int> done(const Target&, Io& io, int res, io_uring_sqe* sqe) {
  const int code = errno_of(res);
  if (code && code != EAGAIN && code != EINTR) return res;
  if (!code) io.done_bytes += static_cast<uint32_t>(res);
  if (!code && (res == 0 || io.done_bytes >= io.len_bytes()))
    return static_cast<int>(io.done_bytes);
  read_zeroes(io, sqe);
  if (code) sqe->flags |= IOSQE_ASYNC;
  return std::nullopt;
}

}  // namespace

const TargetOps kNullTarget = {
    .name = "null",
    .summary = "completes every request at once, keeps nothing",
    .takes_file = false,
    .init = init,
    .start = start,
    .done = done,
    .help =
        "Writes are lost, reads give whatever the server's memory held, or\n"
        "zeroes. --size (250G), --block-size and --max-io say what it looks\n"
        "like. With --no-fill reads by zero copy leave the reader's memory as\n"
        "it was: cheaper, and shows it to whoever may read the device.",
};

}  // namespace ublk
