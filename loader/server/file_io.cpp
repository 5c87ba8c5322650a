// SPDX-License-Identifier: MIT
#include "server/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>

#include <algorithm>

#include "sys/sizes.h"

namespace ublk {

namespace {

Result<uint32_t> choose_block(const Target& target, const Backing& backing) {
  const uint32_t least = std::max<uint32_t>(512, backing.offset_align);
  const uint32_t block =
      target.spec.block_bytes ? target.spec.block_bytes : least;
  if (least > 4096)
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: its direct I/O needs blocks of "
                                 "{} bytes, the most is 4096",
                                 backing.path, least))
            .hint("--buffered has no such need"));
  if (block < least)
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: its direct I/O needs blocks of {} bytes, "
                                 "--block-size is {}",
                                 backing.path, least, block))
            .hint(fmt("--block-size {}, or --buffered", least)));
  if (target.spec.offset_bytes % block)
    return fail(EINVAL,
                "{}: --offset {} is not a multiple of the block size {}",
                backing.path, target.spec.offset_bytes, block);
  return block;
}

Result<uint64_t> choose_size(const Target& target, const Backing& backing,
                             uint32_t block) {
  const TargetSpec& spec = target.spec;
  if (spec.offset_bytes > backing.size_bytes ||
      backing.size_bytes - spec.offset_bytes < block)
    return fail(EINVAL,
                "{}: its {} bytes have no block of {} after --offset {}",
                backing.path, backing.size_bytes, block, spec.offset_bytes);
  const uint64_t rest = backing.size_bytes - spec.offset_bytes;
  if (spec.size_bytes > rest)
    return fail(EINVAL, "{}: has {} bytes after --offset {}, --size is {}",
                backing.path, rest, spec.offset_bytes, spec.size_bytes);
  if (spec.size_bytes % block)
    return fail(EINVAL, "{}: --size {} is not a multiple of the block size {}",
                backing.path, spec.size_bytes, block);
  return spec.size_bytes ? spec.size_bytes : rest;
}

void set_limits(Target& target, const Backing& backing, uint32_t block) {
  ublk_params& params = target.params;
  ublk_param_basic& basic = params.basic;
  // Unless it says so, a write is stable in the file only after FLUSH, or with
  // FUA.
  if (!target.spec.read_only &&
      (backing.volatile_cache || target.spec.write_back))
    basic.attrs |= UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
  if (backing.rotational) basic.attrs |= UBLK_ATTR_ROTATIONAL;
  const auto at_least = [&](uint32_t bytes) {
    return shift_of(std::max(bytes, block));
  };
  basic.physical_bs_shift = at_least(backing.physical_bytes);
  basic.io_min_shift = at_least(backing.io_min_bytes);
  basic.io_opt_shift = at_least(backing.io_opt_bytes);
  if (backing.max_discard_bytes && !target.spec.read_only) {
    const auto sectors = [](uint64_t bytes) {
      return static_cast<uint32_t>(std::min<uint64_t>(
          bytes >> kSectorShift, UINT32_MAX >> kSectorShift));
    };
    params.types |= UBLK_PARAM_TYPE_DISCARD;
    params.discard.discard_granularity =
        std::max(backing.discard_granularity_bytes, block);
    params.discard.max_discard_sectors = sectors(backing.max_discard_bytes);
    params.discard.max_write_zeroes_sectors =
        sectors(backing.max_write_zeroes_bytes);
    params.discard.max_discard_segments = 1;
  }
  if (backing.direct)
    params.dma.alignment =
        std::max(params.dma.alignment,
                 std::min<uint32_t>(backing.memory_align, 4096) - 1);
}

// WRITE_ZEROES without NOUNMAP may free the blocks, as the kernel's loop does.
int fallocate_mode(const Io& io) {
  const bool keep = io.op() == UBLK_IO_OP_WRITE_ZEROES &&
                    (io.desc->op_flags & UBLK_IO_F_NOUNMAP);
  return FALLOC_FL_KEEP_SIZE |
         (keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
}

}  // namespace

Result<void> set_file_params(Target& target, const Backing& file) {
  const uint32_t block = TRY(choose_block(target, file));
  const uint64_t size = TRY(choose_size(target, file, block));
  if (size % block)
    target.remark = Error::plain(
        EINVAL,
        fmt("{}: its last {} bytes are not a block of {}, the device ends "
            "before them",
            file.path, size % block, block));
  set_basic_params(target, size, block);
  set_limits(target, file, block);
  return {};
}

std::optional<int> prepare_file_io(const Target& target, const Io& io, int file,
                                   io_uring_sqe* sqe) {
  const uint64_t off =
      target.spec.offset_bytes + (io.desc->start_sector << kSectorShift);
  switch (io.op()) {
    case UBLK_IO_OP_READ:
      io_uring_prep_read(sqe, file, io.data_addr(),
                         io.len_bytes() - io.done_bytes, off + io.done_bytes);
      break;
    case UBLK_IO_OP_WRITE:
      io_uring_prep_write(sqe, file, io.data_addr(),
                          io.len_bytes() - io.done_bytes, off + io.done_bytes);
      if (io.desc->op_flags & UBLK_IO_F_FUA) sqe->rw_flags = RWF_DSYNC;
      break;
    case UBLK_IO_OP_FLUSH:
      io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
      break;
    case UBLK_IO_OP_DISCARD:
    case UBLK_IO_OP_WRITE_ZEROES:
      io_uring_prep_fallocate(sqe, file, fallocate_mode(io), off,
                              uint64_t{io.desc->nr_sectors} << kSectorShift);
      break;
    default:
      return negative(EOPNOTSUPP);
  }
  sqe->flags = IOSQE_FIXED_FILE;
  return std::nullopt;
}

std::optional<int> go_on_file_io(const Target& target, Io& io, int file,
                                 int res, io_uring_sqe* sqe) {
  const int code = errno_of(res);
  if (code == EAGAIN || code == EINTR) {
    // From a worker this time, where it may wait: no polling.
    const auto result = prepare_file_io(target, io, file, sqe);
    if (!result) sqe->flags |= IOSQE_ASYNC;
    return result;
  }
  if (!io.has_data()) return code ? res : 0;
  // The rest of a file that ends within a block is not aligned any more.
  if (code == EINVAL && io.done_bytes) return negative(EIO);
  if (code) return res;
  if (res == 0) return negative(EIO);
  io.done_bytes += static_cast<uint32_t>(res);
  if (io.done_bytes < io.len_bytes())
    return prepare_file_io(target, io, file, sqe);
  return static_cast<int>(io.done_bytes);
}

}  // namespace ublk
