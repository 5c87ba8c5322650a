// SPDX-License-Identifier: MIT
//
// null: completes every request at once. Writes are lost, reads have whatever
// the server's buffer held, which is zeroes or earlier data of this device.

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
  return {};
}

std::optional<int> start(const Target&, Io& io, io_uring_sqe*) {
  switch (io.op()) {
    case UBLK_IO_OP_READ:
    case UBLK_IO_OP_WRITE:
      return static_cast<int>(io.len_bytes());
    default:
      return 0;
  }
}

std::optional<int> done(const Target&, Io&, int res, io_uring_sqe*) {
  return res;
}

}  // namespace

const TargetOps kNullTarget = {
    .name = "null",
    .summary = "completes every request at once, keeps nothing",
    .takes_file = false,
    .init = init,
    .start = start,
    .done = done,
};

}  // namespace ublk
