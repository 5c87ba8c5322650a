// SPDX-License-Identifier: MIT
//
// mirror: the device's bytes are those of two files, the legs. A write is done
// on one and then on the other, a read on the first that is in use, and if it
// fails there on the next. A leg that a write has failed on, but not on the
// other, is given up: it lacks that write. What fails on both fails, and
// neither is given up for it. The common case is the program's, mirror.bpf.c,
// which passes here what has failed.

#include <algorithm>
#include <bit>
#include <cerrno>
#include <memory>

#include "server/file_io.h"
#include "server/legs.h"
#include "server/target.h"

namespace ublk {

Result<void> Legs::give_up(uint32_t legs) {
  const std::lock_guard held(mutex_);
  const uint32_t now = failed() | legs;
  if (now == failed()) return {};
  if (std::popcount(now) == static_cast<int>(count_))
    return fail(EIO, "no leg of the mirror is left");
  if (note_) TRY(note_(now));
  failed_.store(now, std::memory_order_release);
  return {};
}

namespace {

constexpr uint32_t kNrLegs = 2;

// What a device can do whose bytes are on both.
Backing common(const Backing& one, const Backing& other) {
  Backing both;
  both.path = one.size_bytes <= other.size_bytes ? one.path : other.path;
  both.direct = one.direct || other.direct;
  both.rotational = one.rotational || other.rotational;
  both.volatile_cache = one.volatile_cache || other.volatile_cache;
  both.size_bytes = std::min(one.size_bytes, other.size_bytes);
  for (const auto field :
       {&Backing::offset_align, &Backing::memory_align,
        &Backing::physical_bytes, &Backing::io_min_bytes,
        &Backing::io_opt_bytes, &Backing::discard_granularity_bytes})
    both.*field = std::max(one.*field, other.*field);
  for (const auto field :
       {&Backing::max_discard_bytes, &Backing::max_write_zeroes_bytes})
    both.*field = std::min(one.*field, other.*field);
  return both;
}

Result<Backing> open_leg(const TargetSpec& spec, uint32_t leg) {
  Backing backing =
      TRY(Backing::open(spec.files[leg], {.read_only = spec.read_only,
                                          .buffered = spec.buffered,
                                          .try_fallocate = spec.is_new}));
  if (leg < spec.identities.size()) TRY(backing.check_is(spec.identities[leg]));
  return backing;
}

Result<void> init(Target& target) {
  TargetSpec& spec = target.spec;
  spec.identities.resize(std::min<size_t>(spec.identities.size(), kNrLegs));
  std::vector<FileIdentity> identities(kNrLegs);
  std::ranges::copy(spec.identities, identities.begin());
  const Backing* in_use[kNrLegs];
  size_t nr_in_use = 0;
  target.files.reserve(kNrLegs);
  for (uint32_t leg = 0; leg < kNrLegs; leg++) {
    Backing& file = target.files.emplace_back();
    file.path = spec.files[leg];
    // Neither read nor written again, and its disk may be gone: only its place
    // in the ring is kept.
    if (spec.failed_legs >> leg & 1) continue;
    file = TRY(open_leg(spec, leg));
    spec.files[leg] = file.path;
    identities[leg] = file.identity;
    in_use[nr_in_use++] = &file;
  }
  if (!nr_in_use)
    return fail(EIO, "{} and {}: both legs of the mirror have failed",
                spec.files[0], spec.files[1]);
  const Backing& first = *in_use[0];
  const Backing& last = *in_use[nr_in_use - 1];
  if (nr_in_use > 1 && first.identity.same_as(last.identity))
    return fail(EINVAL, "{} and {}: are one file, a mirror needs two",
                first.path, last.path);
  TRY(set_file_params(target, common(first, last)));
  spec.identities = std::move(identities);
  target.legs = std::make_shared<Legs>(kNrLegs, spec.failed_legs);
  return {};
}

// The next one in use from `leg` on; kNrLegs: none.
uint32_t next_leg(const Target& target, uint32_t leg) {
  while (leg < kNrLegs && !target.legs->in_use(leg)) leg++;
  return leg;
}

int file_of(uint32_t leg) { return kFirstTargetFile + static_cast<int>(leg); }

std::optional<int> begin(const Target& target, Io& io, uint32_t leg,
                         io_uring_sqe* sqe) {
  io.leg = static_cast<uint8_t>(leg);
  io.done_bytes = 0;
  return prepare_file_io(target, io, file_of(leg), sqe);
}

// Of these nothing is learned about the leg: it cannot do it at all, or was not
// asked.
bool says_nothing(int code) {
  return code == EOPNOTSUPP || code == ENOMEM || code == ECANCELED;
}

// What changes data is done on all legs, or was tried.
int outcome(const Target& target, const Io& io) {
  const int success = io.has_data() ? static_cast<int>(io.len_bytes()) : 0;
  if (!io.legs_failed) return io.legs_done ? success : negative(EIO);
  const int error = negative(io.leg_error);
  if (!io.legs_done || says_nothing(io.leg_error)) return error;
  if (!target.legs->give_up(io.legs_failed)) return negative(EIO);
  // Another request may have given up the one that has this write meanwhile.
  return io.legs_done & ~target.legs->failed() ? success : negative(EIO);
}

std::optional<int> start(const Target& target, Io& io, io_uring_sqe* sqe) {
  io.legs_done = io.legs_failed = 0;
  io.leg_error = 0;
  return begin(target, io, next_leg(target, 0), sqe);
}

std::optional<int> done(const Target& target, Io& io, int res,
                        io_uring_sqe* sqe) {
  const auto result = go_on_file_io(target, io, file_of(io.leg), res, sqe);
  if (!result) return std::nullopt;
  const int code = errno_of(*result);
  if (code) {
    io.legs_failed |= static_cast<uint8_t>(1 << io.leg);
    // The one that says more, whichever comes first.
    if (!io.leg_error || says_nothing(code)) io.leg_error = code;
  } else {
    io.legs_done |= static_cast<uint8_t>(1 << io.leg);
    if (io.op() == UBLK_IO_OP_READ) return result;
  }
  const uint32_t next = next_leg(target, io.leg + 1U);
  if (next < kNrLegs) return begin(target, io, next, sqe);
  return io.op() == UBLK_IO_OP_READ ? negative(io.leg_error)
                                    : outcome(target, io);
}

}  // namespace

const TargetOps kMirrorTarget = {
    .name = "mirror",
    .summary = "two regular files or block devices (-f FILE -f FILE)",
    .takes_file = true,
    .nr_files = kNrLegs,
    .init = init,
    .start = start,
    .done = done,
    .help =
        "Each -f FILE is a leg and has all of the data: before the device is\n"
        "added for the first time, make them equal. Writes go to both, reads\n"
        "to one, and to the other if that fails. A leg that a write fails on\n"
        "is not used any more, list says so. Attach mirror.bpf.o, and the\n"
        "kernel does all but that.",
};

}  // namespace ublk
