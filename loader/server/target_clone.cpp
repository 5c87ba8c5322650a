// SPDX-License-Identifier: MIT
//
// clone: a copy-on-write disk. A block is in the topmost layer that has it,
// else in the base, else it is zeroes. What is written goes to the top layer:
// data first, then the bit in its map that makes the block present, then the
// request completes. FLUSH and FUA bring the map to the disk.
//
// What is in one piece somewhere, and is not a first write, is one SQE, as of
// loop. All else is a coroutine.
//
// Two requests on one block, of which one is a first write (the block is
// absent, and becomes present by it):
//
//   first write, first write  the second waits (BusyBlocks), finds the block
//                             present and writes to it: nothing is copied up
//                             over what the first has written
//   first write, write        it goes to the top when it finds the block
//                             present: then the first is done
//   first write, read         old or new per block: the bit is set when all of
//                             the data is there. Below the top nothing changes
//   first write, discard or   as two first writes
//   zeroes
//   first write, FLUSH        not covered unless the write has completed: then
//                             its bit is set
//   first write that fails    the block is absent still. What it has left in
//                             the file is overwritten by the next, as that
//                             writes the whole block
//
// With the block present all of them go to the file, and order is the file's,
// as for loop.
//
// FLUSH. What was completed before it began is durable when it returns. Such a
// write's bit was set before. If the map has it as unsaved, a round of saving
// that begins after the FLUSH takes it. Else an earlier round has it. If that
// has ended, with success, it is on the disk; without, it is unsaved again. If
// it has not, the FLUSH joins the next round. In a round the file is synced
// after the bits were taken: their data, which was written before, is durable
// before they are. What was written to blocks whose bits are on the disk
// already is made durable by that sync, or by the one that a FLUSH without a
// round is.

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <algorithm>
#include <memory>

#include "server/clone.h"
#include "server/drains.h"
#include "server/file_io.h"
#include "server/steps.h"
#include "server/target.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

// In the queue's ring.
constexpr int kZeroFile = kFirstTargetFile;
constexpr int kMetadataFile = kZeroFile + 1;
constexpr int kTopFile = kMetadataFile + 1;

int file_of(const Clone::Extent& extent) { return kTopFile + extent.source; }
bool is_zeroes(const Clone::Extent& extent) {
  return extent.source == Clone::Extent::kZeroes;
}
bool again(int code) { return code == EAGAIN || code == EINTR; }

// --- init ---

// What a device can do whose bytes are on all of them, and written to the top.
Backing common(const Clone& clone) {
  const LayerChain& chain = clone.chain();
  const Backing& top = clone.top().file();
  Backing all;
  all.path = top.path;
  all.size_bytes = clone.header().size_bytes;
  all.max_discard_bytes = top.max_discard_bytes;
  all.max_write_zeroes_bytes = top.max_write_zeroes_bytes;
  all.volatile_cache = true;
  const auto add = [&all](const Backing& file) {
    all.direct |= file.direct;
    all.rotational |= file.rotational;
    for (const auto field : {&Backing::offset_align, &Backing::memory_align,
                             &Backing::physical_bytes})
      all.*field = std::max(all.*field, file.*field);
  };
  for (const Layer& layer : chain.layers) add(layer.file());
  if (chain.base) add(*chain.base);
  const uint32_t block = clone.header().block_bytes;
  all.io_min_bytes = all.io_opt_bytes = all.discard_granularity_bytes = block;
  return all;
}

// A part of a block at the end of a disk cannot be written by itself.
Result<void> check_ends(const Clone& clone, uint32_t block) {
  for (const Layer& layer : clone.chain().layers)
    if (layer.header().size_bytes % block)
      return std::unexpected(
          Error::plain(EINVAL,
                       fmt("{}: has {} bytes, which is not a multiple of the "
                           "block size {}",
                           layer.file().path, layer.header().size_bytes, block))
              .hint("--buffered allows blocks of 512"));
  return {};
}

Result<void> note_files(Target& target) {
  TargetSpec& spec = target.spec;
  std::vector<FileIdentity> identities;
  spec.layers.clear();
  const auto add = [&](const Backing& file, std::string uuid) -> Result<void> {
    const size_t i = identities.size();
    if (i < spec.identities.size()) TRY(file.check_is(spec.identities[i]));
    identities.push_back(file.identity);
    spec.layers.push_back({.path = file.path, .uuid = std::move(uuid)});
    return {};
  };
  for (const Layer& layer : target.clone->chain().layers)
    TRY(add(layer.file(), uuid_text(layer.header().uuid)));
  if (target.clone->chain().base) TRY(add(*target.clone->chain().base, ""));
  spec.files[0] = spec.layers[0].path;
  spec.identities = std::move(identities);
  return {};
}

// Without it two requests could not wait for each other.
Result<void> check_ring() {
  const std::unique_ptr<io_uring_probe, decltype(&io_uring_free_probe)> probe(
      io_uring_get_probe(), io_uring_free_probe);
  if (!probe || io_uring_opcode_supported(probe.get(), IORING_OP_FUTEX_WAIT))
    return {};
  return fail(EOPNOTSUPP,
              "target clone: this kernel lacks it: needs IORING_OP_FUTEX_WAIT "
              "(linux 6.7 and later)");
}

Result<void> init(Target& target) {
  TargetSpec& spec = target.spec;
  TRY(check_ring());
  if (spec.offset_bytes) return fail(EINVAL, "target clone: takes no --offset");
  if (spec.write_back)
    return fail(EINVAL,
                "target clone: takes no --write-back, it always has a cache");
  target.clone = TRY(Clone::open(spec.files[0], {.read_only = spec.read_only,
                                                 .buffered = spec.buffered,
                                                 .base_later = spec.base_later,
                                                 .is_new = spec.is_new}));
  const uint64_t size = target.clone->header().size_bytes;
  if (spec.size_bytes && spec.size_bytes != size)
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: has {} bytes, --size is {}",
                                 spec.files[0], size, spec.size_bytes))
            .hint("the size is the layer's: ublk-bpf layer create --size"));
  spec.size_bytes = 0;  // the layer may grow
  TRY(note_files(target));
  TRY(set_file_params(target, common(*target.clone)));
  TRY(check_ends(*target.clone, 1U << target.params.basic.logical_bs_shift));
  Backing zero;
  zero.path = "/dev/zero";
  zero.fd = TRY(UniqueFd::open(zero.path, O_RDONLY));
  target.files.push_back(std::move(zero));
  target.more_files = target.clone->ring_files();
  return {};
}

// --- parts of requests ---

uint64_t start_of(const Io& io) {
  return io.desc->start_sector << kSectorShift;
}

struct Free {
  void operator()(void* memory) const { ::free(memory); }
};
using Bounce = std::unique_ptr<std::byte, Free>;

// Of direct I/O's alignment.
Bounce bounce_of(uint64_t bytes) {
  constexpr size_t kAlign = 4096;
  return Bounce(static_cast<std::byte*>(
      ::aligned_alloc(kAlign, (bytes + kAlign - 1) / kAlign * kAlign)));
}

struct Place {
  int file;
  uint64_t offset;
};

// So many bytes by as many SQEs as it takes: prepare(sqe, moved) is for what is
// not done yet. How many it was: less only at a file's end, when reading.
template <typename Prepare>
Steps move(bool reads, uint64_t bytes, Prepare prepare) {
  uint64_t moved = 0;
  unsigned flags = IOSQE_FIXED_FILE;
  while (moved < bytes) {
    const int res = co_await sqe_of([&](io_uring_sqe* sqe) {
      prepare(sqe, moved);
      sqe->flags = static_cast<uint8_t>(flags);
    });
    const int code = errno_of(res);
    // From a worker, where it may wait.
    flags = again(code) ? IOSQE_FIXED_FILE | IOSQE_ASYNC : IOSQE_FIXED_FILE;
    if (again(code)) continue;
    // The rest of a file that ends within a sector is not aligned any more.
    if (code == EINVAL && moved) break;
    if (code) co_return res;
    if (res == 0) break;
    moved += static_cast<uint64_t>(res);
  }
  if (moved < bytes && !reads) co_return -EIO;
  co_return static_cast<int>(moved);
}

// The request's data from `pos` on.
Steps move_data(Io& io, uint64_t pos, uint64_t bytes, Place place) {
  const bool reads = io.op() == UBLK_IO_OP_READ;
  return move(reads, bytes, [=, &io](io_uring_sqe* sqe, uint64_t moved) {
    io.done_bytes = static_cast<uint32_t>(pos + moved);
    const auto rest = static_cast<uint32_t>(bytes - moved);
    if (reads)
      io_uring_prep_read(sqe, place.file, io.data_addr(), rest,
                         place.offset + moved);
    else
      io_uring_prep_write(sqe, place.file, io.data_addr(), rest,
                          place.offset + moved);
  });
}

// Memory of the server's, whatever the data path is: that makes something else
// of READ and WRITE, but not of these.
Steps move_bounce(bool reads, std::byte* memory, uint64_t bytes, Place place) {
  return move(reads, bytes,
              [=, vec = iovec{}](io_uring_sqe* sqe, uint64_t moved) mutable {
                vec = {memory + moved, bytes - moved};
                const auto prepare =
                    reads ? io_uring_prep_readv : io_uring_prep_writev;
                prepare(sqe, place.file, &vec, 1, place.offset + moved);
              });
}

Steps wait_for(FutexWait wait) {
  const int res = co_await sqe_of([&](io_uring_sqe* sqe) {
    io_uring_prep_futex_wait(sqe, wait.word, wait.value, FUTEX_BITSET_MATCH_ANY,
                             FUTEX2_SIZE_U32 | FUTEX2_PRIVATE, 0);
  });
  const int code = errno_of(res);
  co_return again(code) ? 0 : res;
}

Steps sync(int file) {
  int res = 0;
  do {
    res = co_await sqe_of([&](io_uring_sqe* sqe) {
      io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
      sqe->flags = IOSQE_FIXED_FILE;
    });
  } while (again(errno_of(res)));
  co_return res;
}

Steps fallocate_top(int mode, uint64_t offset, uint64_t bytes) {
  int res = 0;
  do {
    res = co_await sqe_of([&](io_uring_sqe* sqe) {
      io_uring_prep_fallocate(sqe, kTopFile, mode | FALLOC_FL_KEEP_SIZE, offset,
                              bytes);
      sqe->flags = IOSQE_FIXED_FILE;
    });
  } while (again(errno_of(res)));
  co_return res;
}

// Bytes from what is below the top, whatever the top has.
Steps read_below(const Clone& clone, std::byte* memory, uint64_t at,
                 uint64_t bytes) {
  uint64_t pos = 0;
  while (pos < bytes) {
    const Clone::Extent extent = clone.find(at + pos, bytes - pos, 1);
    if (is_zeroes(extent)) {
      ::memset(memory + pos, 0, extent.bytes);
      pos += extent.bytes;
      continue;
    }
    const int res = co_await move_bounce(true, memory + pos, extent.bytes,
                                         {file_of(extent), extent.offset});
    if (res < 0) co_return res;
    if (res == 0) co_return -EIO;
    pos += static_cast<uint64_t>(res);
  }
  co_return 0;
}

// Brings bytes of absent blocks to the top's file.
Steps copy_up(const Clone& clone, uint64_t from, uint64_t to) {
  if (from >= to) co_return 0;
  const Bounce bounce = bounce_of(to - from);
  if (!bounce) co_return -ENOMEM;
  const int res = co_await read_below(clone, bounce.get(), from, to - from);
  if (res < 0) co_return res;
  co_return co_await move_bounce(false, bounce.get(), to - from,
                                 {kTopFile, clone.top().data_offset() + from});
}

// The rest of the blocks of which a request has [at, at + bytes).
Steps copy_up_around(const Clone& clone, const Clone::Run& run, uint64_t at) {
  const uint64_t block = clone.header().block_bytes;
  const int res = co_await copy_up(clone, run.first * block, at);
  if (res < 0) co_return res;
  co_return co_await copy_up(
      clone, at + run.bytes,
      std::min((run.first + run.count) * block, clone.header().size_bytes));
}

// --- requests ---

// The leader's part of a round of saving.
Steps save_map(Clone& clone) {
  auto save = clone.saves().begin_save(clone.top());
  if (!save) co_return negative(save.error().code());
  int res = co_await sync(kTopFile);
  auto& sectors = save->sectors;
  for (size_t i = 0; i < sectors.size() && res >= 0; i++) {
    auto& sector = sectors[i];
    res = co_await move_bounce(false, sector.bytes.data(), sector.bytes.size(),
                               {kMetadataFile, sector.offset});
  }
  // The descriptor that they were written by: another's sync may have been told
  // that they could not be.
  if (res >= 0 && !sectors.empty()) res = co_await sync(kMetadataFile);
  // Else its destruction puts them back, before the round ends.
  if (res >= 0) {
    clone.top().end_save(std::move(*save));
    clone.saves().saved();
  }
  co_return res < 0 ? res : 0;
}

// Until a round, of saving or of drains, has ended.
template <typename Part>
Steps wait_for_round(const Part& part) {
  while (const auto wait = part.waits_for()) {
    const int res = co_await wait_for(*wait);
    if (res < 0) co_return res;
  }
  co_return 0;
}

Steps make_durable(Clone& clone, int result) {
  SaveRounds::Part part = clone.saves().join();
  const int res = co_await wait_for_round(part);
  if (res < 0) co_return res;
  if (part.leads()) part.end(co_await save_map(clone));
  co_return part.result() < 0 ? part.result() : result;
}

// Until the program is not at work on blocks that were found busy by it later.
Steps drain(Clone& clone) {
  if (!clone.drains()) co_return 0;
  const Drains::Part part = clone.drains()->join();
  const int res = co_await wait_for_round(part);
  co_return res < 0 ? res : part.result();
}

// Before absent blocks of which a request has [at, at + run.bytes) become
// present by it: `hold` gets them, and the rest of them is brought up. 1: some
// are present by now, look again. The program may be writing them whole, which
// must not be undone.
Steps begin_first_write(Clone& clone, BusyBlocks::Hold& hold,
                        const Clone::Run& run, uint64_t at) {
  while (const auto wait = clone.busy().take(hold, run.first, run.count)) {
    const int waited = co_await wait_for(*wait);
    if (waited < 0) co_return waited;
  }
  // Who had them before may have made them present.
  if (!clone.are_absent(run)) co_return 1;
  const uint64_t block = clone.header().block_bytes;
  const uint64_t end =
      std::min((run.first + run.count) * block, clone.header().size_bytes);
  if (at == run.first * block && at + run.bytes == end) co_return 0;
  int res = co_await drain(clone);
  if (res < 0) co_return res;
  if (!clone.are_absent(run)) co_return 1;
  res = co_await copy_up_around(clone, run, at);
  co_return std::min(res, 0);
}

// Their data is in the file.
Steps make_present(Clone& clone, const Clone::Run& run) {
  clone.saves().set(clone.top().blocks(), run.first, run.count);
  if (clone.keeps_map()) co_return 0;
  co_return co_await make_durable(clone, 0);
}

Steps read(const Clone& clone, Io& io, uint64_t pos) {
  const uint64_t start = start_of(io);
  const uint64_t len = io.len_bytes();
  while (pos < len) {
    const Clone::Extent extent = clone.find(start + pos, len - pos);
    if (is_zeroes(extent) && io.buf) {
      ::memset(io.buf + pos, 0, extent.bytes);
      pos += extent.bytes;
      continue;
    }
    const Place place = is_zeroes(extent)
                            ? Place{kZeroFile, 0}
                            : Place{file_of(extent), extent.offset};
    const int res = co_await move_data(io, pos, extent.bytes, place);
    if (res < 0) co_return res;
    if (res == 0) co_return -EIO;
    pos += static_cast<uint64_t>(res);
  }
  co_return static_cast<int>(len);
}

Steps write(Clone& clone, Io& io, uint64_t pos) {
  const uint64_t start = start_of(io);
  const uint64_t len = io.len_bytes();
  while (pos < len) {
    const uint64_t at = start + pos;
    const Clone::Run run = clone.run(at, len - pos);
    const Place place{kTopFile, clone.top().data_offset() + at};
    if (run.present) {
      const int res = co_await move_data(io, pos, run.bytes, place);
      if (res < 0) co_return res;
      pos += run.bytes;
      continue;
    }
    BusyBlocks::Hold hold;
    int res = co_await begin_first_write(clone, hold, run, at);
    if (res > 0) continue;
    if (res == 0) res = co_await move_data(io, pos, run.bytes, place);
    if (res >= 0) res = co_await make_present(clone, run);
    if (res < 0) co_return res;
    pos += run.bytes;
  }
  if (io.desc->op_flags & UBLK_IO_F_FUA)
    co_return co_await make_durable(clone, static_cast<int>(len));
  co_return static_cast<int>(len);
}

// DISCARD frees whole blocks, what is left over keeps its data. WRITE_ZEROES is
// exact.
Steps zero(Clone& clone, const Io& io) {
  const bool discards = io.op() == UBLK_IO_OP_DISCARD;
  const bool keeps = io.desc->op_flags & UBLK_IO_F_NOUNMAP;
  const int mode =
      !discards && keeps ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
  const uint64_t block = clone.header().block_bytes;
  uint64_t at = start_of(io);
  uint64_t end = at + (uint64_t{io.desc->nr_sectors} << kSectorShift);
  if (discards) {
    at = (at + block - 1) / block * block;
    if (end < clone.header().size_bytes) end = end / block * block;
  }
  while (at < end) {
    Clone::Run run = clone.run(at, end - at);
    const uint64_t offset = clone.top().data_offset() + at;
    if (run.present) {
      const int res = co_await fallocate_top(mode, offset, run.bytes);
      if (res < 0) co_return res;
      at += run.bytes;
      continue;
    }
    // Where nothing is below they are zeroes as they are.
    const Clone::Extent below = clone.find(at, run.bytes, 1);
    if (is_zeroes(below)) {
      at += below.bytes;
      continue;
    }
    run.count = (at + below.bytes - 1) / block - run.first + 1;
    run.bytes = std::min(run.bytes, (run.first + run.count) * block - at);
    BusyBlocks::Hold hold;
    int res = co_await begin_first_write(clone, hold, run, at);
    if (res > 0) continue;
    if (res == 0) res = co_await fallocate_top(mode, offset, run.bytes);
    if (res >= 0) res = co_await make_present(clone, run);
    if (res < 0) co_return res;
    at += run.bytes;
  }
  co_return 0;
}

// --- the table ---

std::optional<int> start_read(const Clone& clone, Io& io, io_uring_sqe* sqe) {
  const uint32_t len = io.len_bytes();
  const Clone::Extent extent = clone.find(start_of(io), len);
  if (extent.bytes < len) {
    io.steps = read(clone, io, 0);
    return io.steps.begin(sqe);
  }
  const bool zeroes = is_zeroes(extent);
  if (zeroes && io.buf) {
    ::memset(io.buf, 0, len);
    return static_cast<int>(len);
  }
  io_uring_prep_read(sqe, zeroes ? kZeroFile : file_of(extent), io.data_addr(),
                     len, zeroes ? 0 : extent.offset);
  sqe->flags = IOSQE_FIXED_FILE;
  return std::nullopt;
}

std::optional<int> start_write(Clone& clone, Io& io, io_uring_sqe* sqe) {
  const uint32_t len = io.len_bytes();
  const uint64_t at = start_of(io);
  const Clone::Run run = clone.run(at, len);
  if (!run.present || run.bytes < len) {
    io.steps = write(clone, io, 0);
    return io.steps.begin(sqe);
  }
  io_uring_prep_write(sqe, kTopFile, io.data_addr(), len,
                      clone.top().data_offset() + at);
  if (io.desc->op_flags & UBLK_IO_F_FUA) sqe->rw_flags = RWF_DSYNC;
  sqe->flags = IOSQE_FIXED_FILE;
  return std::nullopt;
}

std::optional<int> start(const Target& target, Io& io, io_uring_sqe* sqe) {
  Clone& clone = *target.clone;
  io.done_bytes = 0;
  switch (io.op()) {
    case UBLK_IO_OP_READ:
      return start_read(clone, io, sqe);
    case UBLK_IO_OP_WRITE:
      return start_write(clone, io, sqe);
    case UBLK_IO_OP_FLUSH:
      if (clone.is_saved()) {
        io_uring_prep_fsync(sqe, kTopFile, IORING_FSYNC_DATASYNC);
        sqe->flags = IOSQE_FIXED_FILE;
        return std::nullopt;
      }
      io.steps = make_durable(clone, 0);
      return io.steps.begin(sqe);
    case UBLK_IO_OP_DISCARD:
    case UBLK_IO_OP_WRITE_ZEROES:
      io.steps = zero(clone, io);
      return io.steps.begin(sqe);
    default:
      return negative(EOPNOTSUPP);
  }
}

std::optional<int> done(const Target& target, Io& io, int res,
                        io_uring_sqe* sqe) {
  if (io.steps) return io.steps.go_on(res, sqe);
  Clone& clone = *target.clone;
  const int code = errno_of(res);
  if (code && !again(code)) return res;
  const uint32_t moved = code ? 0 : static_cast<uint32_t>(res);
  switch (io.op()) {
    case UBLK_IO_OP_READ:
      if (moved == io.len_bytes()) return res;
      io.steps = read(clone, io, moved);
      break;
    case UBLK_IO_OP_WRITE:
      if (moved < io.len_bytes())
        io.steps = write(clone, io, moved);
      else if (!(io.desc->op_flags & UBLK_IO_F_FUA) || clone.is_saved())
        return res;
      else
        // The block is durable, but not yet that it is there.
        io.steps = make_durable(clone, res);
      break;
    default:
      if (!code) return 0;
      io.steps = make_durable(clone, 0);
  }
  return io.steps.begin(sqe);
}

}  // namespace

const TargetOps kCloneTarget = {
    .name = "clone",
    .summary = "a copy-on-write disk (-f LAYER)",
    .takes_file = true,
    .init = init,
    .start = start,
    .done = done,
    .help =
        "-f LAYER is a file of ublk-bpf layer create, which knows what is\n"
        "below it. Blocks that were not written are read from there. What is\n"
        "written goes to the layer, and is durable after a flush. Its size is\n"
        "the device's. With --read-only the layer may be a sealed one, and\n"
        "other devices may have it too.",
};

}  // namespace ublk
