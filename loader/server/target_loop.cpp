// SPDX-License-Identifier: MIT
//
// loop: the device's bytes are those of one regular file or block device from
// an offset on. Each request is one io_uring request on that file; FLUSH and
// FUA reach it, DISCARD and WRITE_ZEROES become fallocate().

#include "server/file_io.h"
#include "server/target.h"
#include "server/track.h"

namespace ublk {

namespace {

Result<void> init(Target& target) {
  TargetSpec& spec = target.spec;
  TrackedImage before;
  if (!spec.track.empty()) before = TRY(TrackedImage::at(spec.files[0]));
  Backing backing =
      TRY(Backing::open(spec.files[0], {.read_only = spec.read_only,
                                        .buffered = spec.buffered,
                                        .try_fallocate = spec.is_new}));
  if (!spec.identities.empty()) TRY(backing.check_is(spec.identities[0]));
  TRY(set_file_params(target, backing));
  spec.files[0] = backing.path;
  spec.identities = {backing.identity};
  if (!spec.track.empty()) {
    target.track = TRY(Track::open(target, backing, before));
    spec.track_block_bytes = target.track->header().block_bytes;
  }
  target.files.push_back(std::move(backing));
  return {};
}

std::optional<int> start(const Target& target, Io& io, io_uring_sqe* sqe) {
  io.done_bytes = 0;
  if (target.track) target.track->begin(io);
  const auto result = prepare_file_io(target, io, kFirstTargetFile, sqe);
  if (target.track && result) target.track->end(io);
  return result;
}

std::optional<int> done(const Target& target, Io& io, int res,
                        io_uring_sqe* sqe) {
  const auto result = go_on_file_io(target, io, kFirstTargetFile, res, sqe);
  if (target.track && result) target.track->end(io);
  return result;
}

}  // namespace

const TargetOps kLoopTarget = {
    .name = "loop",
    .summary = "a regular file or block device (-f FILE)",
    .takes_file = true,
    .init = init,
    .start = start,
    .done = done,
    .help =
        "-f FILE is the regular file or block device whose bytes it has,\n"
        "from --offset on, --size of them (default: to the end). I/O is\n"
        "direct where the file can, else or with --buffered through the\n"
        "page cache. Flush and FUA reach the file, discards free space.",
};

}  // namespace ublk
