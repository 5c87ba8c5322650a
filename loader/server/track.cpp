// SPDX-License-Identifier: MIT
//
// What was written since a mark. Two generations of bits, of which one is the
// current period's, and a third thing that says in which of them a write is
// marked: `active`. A mark is:
//
//   1. only the current one is active; drain. Nobody marks the other one now.
//   2. clear the other one; drain. Whoever marks it from here on sees it
//   cleared.
//   3. both are active; drain. What is in flight from here on is marked in
//   both.
//   4. write the current one to the file as that of the period that has ended,
//      and the new mark; sync. The other one is current, and alone active.
//
// A drain waits for all that was planned, or begun by the server, before it.
//
// A write that is not done when the mark returns is in the new period: it was
// planned after the drain of 3 began, or that would have waited for it; so it
// has seen both as active, or has been planned after 4, and marks the other one
// in either case. One that was done before is in the period that has ended, as
// that one is active all the time until 4; or in both.
//
// Whoever makes the mark may die anywhere. Before the sync of 4 the file has
// the old marks, and the current generation all that was written since the last
// of them. After it, until the other one is current, the file has the new mark
// and the current generation more than was written since: too much, not too
// little.
//
// The server's half of a drain. A request is counted, then looks at `active`,
// then marks, and is counted down when it is done. Whoever drains has set
// `active` before he looks at the counts. Each is sequentially consistent: he
// sees the count, or the request sees his `active`. There are two counts, so
// that one can come to 0 while there is always something in flight; a request
// may be late to count in the one that was current before, so both are waited
// for, one after the other.

#include "server/track.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "layer/block_map.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

std::atomic_ref<uint64_t> at(uint64_t& word) { return std::atomic_ref(word); }
// Of the kernel's type, which is another one to C++.
std::atomic_ref<__u64> of(__u64& word) { return std::atomic_ref(word); }

constexpr uint64_t kBoth = 3;
constexpr const char* kNotClosed = "its device has not been ended";
constexpr const char* kWritten =
    "its image was written to while it did not track it";

}  // namespace

uint64_t TrackMemory::words_for(uint64_t nr_blocks) {
  return 2 * BlockMap::words_for(nr_blocks);
}

uint64_t TrackMemory::current() const {
  return of(shared_->current).load() & 1;
}

void TrackMemory::begin(const Uuid& uuid, const TrackBits& bits, bool all) {
  std::memset(shared_, 0, sizeof(*shared_));
  static_assert(sizeof(shared_->of) == sizeof(uuid));
  std::memcpy(shared_->of, uuid.data(), sizeof(uuid));
  for (size_t i = 0; i < bits.size() && 2 * i < words_.size(); i++)
    at(words_[2 * i]).store(bits[i], std::memory_order_relaxed);
  of(shared_->all).store(all);
  of(shared_->active).store(1);
}

void TrackMemory::adopt() {
  for (__u64& count : shared_->in_flight) of(count).store(0);
}

bool TrackMemory::is_of(const Uuid& uuid) const {
  return std::memcmp(shared_->of, uuid.data(), sizeof(uuid)) == 0;
}

void TrackMemory::mark(uint64_t first, uint64_t count) {
  const uint64_t active = of(shared_->active).load();
  const uint64_t end = first + count;
  for (uint64_t block = first; block < end;) {
    const uint64_t next = std::min(end, (block | 63) + 1);
    const uint64_t bits = ~uint64_t{0} >> (64 - (next - block)) << block % 64;
    for (uint64_t gen = 0; gen < 2; gen++) {
      if (!(active >> gen & 1)) continue;
      const uint64_t index = block / 64 * 2 + gen;
      if (index >= words_.size()) return;
      if ((at(words_[index]).load() & bits) != bits)
        at(words_[index]).fetch_or(bits);
    }
    block = next;
  }
}

uint8_t TrackMemory::begin_request() {
  const auto turn = static_cast<uint8_t>(of(shared_->phase).load() & 1);
  of(shared_->in_flight[turn]).fetch_add(1);
  return turn;
}

void TrackMemory::end_request(uint8_t turn) {
  of(shared_->in_flight[turn & 1]).fetch_sub(1);
}

TrackBits TrackMemory::bits() const {
  TrackBits bits(words_.size() / 2);
  const uint64_t gen = current();
  for (size_t i = 0; i < bits.size(); i++)
    bits[i] = at(words_[2 * i + gen]).load();
  return bits;
}

void TrackMemory::set_all() { of(shared_->all).store(1); }

bool TrackMemory::all() const { return of(shared_->all).load() != 0; }

void TrackMemory::only_current() {
  of(shared_->active).store(uint64_t{1} << current());
}

void TrackMemory::clear_next() {
  const uint64_t next = 1 - current();
  for (size_t i = next; i < words_.size(); i += 2)
    if (at(words_[i]).load(std::memory_order_relaxed)) at(words_[i]).store(0);
}

void TrackMemory::both() { of(shared_->active).store(kBoth); }

void TrackMemory::go_to_next() {
  of(shared_->current).store(1 - current());
  only_current();
  of(shared_->all).store(0);
}

uint64_t* TrackMemory::turn() {
  const uint64_t before = of(shared_->phase).fetch_add(1) & 1;
  return reinterpret_cast<uint64_t*>(&shared_->in_flight[before]);
}

uint64_t TrackMemory::count(uint64_t* in_flight) {
  return of(*reinterpret_cast<__u64*>(in_flight)).load();
}

namespace {

Result<void> check_fits(const TrackFile& file, const TrackHeader& wanted) {
  const TrackHeader& has = file.header();
  if (!has.image.is_file(wanted.image))
    return std::unexpected(
        Error::plain(ESTALE, fmt("{}: tracks another image: {}, not {}",
                                 file.path(), has.image.identity.text(),
                                 wanted.image.identity.text()))
            .hint("use another track file, or remove this one; then all counts "
                  "as changed"));
  if (has.size_bytes != wanted.size_bytes ||
      has.offset_bytes != wanted.offset_bytes)
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: tracks {} bytes from {} on, the device has {} "
                         "from {} on",
                         file.path(), has.size_bytes, has.offset_bytes,
                         wanted.size_bytes, wanted.offset_bytes))
            .hint("remove it, and begin with a full copy"));
  if (wanted.block_bytes && wanted.block_bytes != has.block_bytes)
    return fail(EINVAL, "{}: has blocks of {} bytes, --track-block is {}",
                file.path(), has.block_bytes, wanted.block_bytes);
  return {};
}

Result<TrackFile> open_or_create(const std::string& path,
                                 const TrackHeader& wanted,
                                 const std::string& image_path) {
  auto file = TrackFile::open(path, TrackFile::Use::write);
  if (file || file.error().code() != ENOENT) return file;
  TrackHeader header = wanted;
  if (!header.block_bytes) header.block_bytes = kDefaultTrackBlock;
  if ((header.size_bytes - 1) / header.block_bytes >= kMostTrackBlocks)
    return fail(EINVAL,
                "{}: {} bytes are more than {} blocks of {}: --track-block is "
                "too small",
                path, header.size_bytes, kMostTrackBlocks, header.block_bytes);
  TRY(TrackFile::create(path, header, image_path));
  return TrackFile::open(path, TrackFile::Use::write);
}

Error counts_as_changed(const TrackFile& file, const char* why) {
  return Error::plain(ESTALE, fmt("{}: {}: until the next mark all counts as "
                                  "changed",
                                  file.path(), why));
}

}  // namespace

Result<std::shared_ptr<Track>> Track::open(const Target& target,
                                           const Backing& image,
                                           const TrackedImage& before) {
  const TargetSpec& spec = target.spec;
  const TrackHeader wanted{
      .size_bytes = target.params.basic.dev_sectors << kSectorShift,
      .offset_bytes = spec.offset_bytes,
      .block_bytes = spec.track_block_bytes,
      .image = TRY_IN(image.path, TrackedImage::of(image.fd.get()))};
  TrackFile file = TRY(open_or_create(spec.track, wanted, image.path));
  TRY(check_fits(file, wanted));
  std::shared_ptr<Track> track(new Track(std::move(file), image.path));
  track->image_ = TRY(UniqueFd::open(fmt("/proc/self/fd/{}", image.fd.get()),
                                     O_RDONLY | O_NONBLOCK));
  track->opened_ = wanted.image;
  track->before_ = before;
  return track;
}

Result<std::shared_ptr<Track>> Track::open_left(const TargetSpec& spec) {
  TrackFile file = TRY(TrackFile::open(spec.track, TrackFile::Use::write));
  std::shared_ptr<Track> track(new Track(std::move(file), spec.files[0]));
  track->image_ = TRY(UniqueFd::open(spec.files[0], O_RDONLY | O_NONBLOCK));
  const TrackedImage is = TRY(track->image_now());
  if (!is.is_file(track->header().image))
    return fail(ESTALE, "{}: is not the image that {} tracks", spec.files[0],
                spec.track);
  return track;
}

Result<TrackedImage> Track::image_now() const {
  return TRY_IN(image_path_, TrackedImage::of(image_.get()));
}

Result<void> Track::save_left(TrackMemory memory) {
  TRY(file_.lock());
  TRY(file_.hold(true));
  const auto saved = [&]() -> Result<void> {
    TRY(file_.reload());
    // The server has saved it; or it is what another one has left.
    if (!header().in_use || !memory.is_of(header().uuid)) return {};
    memory_.emplace(std::move(memory));
    return save_held();
  }();
  file_.release();
  return saved;
}

Result<void> Track::take(const Make& make, const Make& find) {
  TRY(file_.lock());
  TRY(file_.hold(true));
  auto taken = take_held(make, find);
  file_.release();
  return taken;
}

Result<void> Track::take_held(const Make& make, const Make& find) {
  TRY(file_.reload());
  const TrackedImage now = TRY(image_now());
  // To open it may have changed its time, as that tries what it can do.
  const bool changed =
      !header().in_use &&
      (!before_.is_unchanged(header().image) || !now.is_unchanged(opened_));
  if (find) {
    auto left = find(header());
    if (!left && left.error().code() != ENOENT)
      return std::unexpected(std::move(left).error());
    if (left && left->is_of(header().uuid)) {
      memory_.emplace(std::move(*left));
      memory_->adopt();
    }
  }
  if (!memory_)
    TRY(begin_memory(make, changed));
  else if (changed) {
    memory_->set_all();
    remark_ = counts_as_changed(file_, kWritten);
  }
  memory_->note(false);
  return file_.begin_use(now, image_path_, memory_->all());
}

// With what the file has.
Result<void> Track::begin_memory(const Make& make, bool changed) {
  bool all = header().all;
  TrackBits bits;
  const char* why = header().in_use ? kNotClosed : changed ? kWritten : nullptr;
  if (!all && !why && !TRY(file_.add_period(header().period, bits)))
    why = "its bitmap is damaged";
  // Without a mark there is nothing that it could be compared with.
  if (why && !all && header().period) remark_ = counts_as_changed(file_, why);
  all |= why != nullptr;
  memory_.emplace(TRY(make(header())));
  memory_->begin(header().uuid, bits, all);
  return {};
}

Result<void> Track::save() {
  if (!memory_) return {};
  TRY(file_.hold(true));
  auto saved = save_held();
  file_.release();
  return saved;
}

Result<void> Track::save_held() {
  TRY(file_.reload());
  // Or a crash would leave another time than is noted, and all as changed.
  if (::fsync(image_.get()) != 0)
    return fail_sys(errno, "{}: fsync of its image", file_.path());
  const TrackedImage now = TRY(image_now());
  TRY(file_.end_use(now, memory_->bits(), memory_->all()));
  memory_->note(true);
  return {};
}

void Track::begin_write(Io& io) {
  io.tracked = static_cast<uint8_t>(memory_->begin_request() + 1);
  const uint64_t block_sectors = header().block_bytes >> kSectorShift;
  const uint64_t first = io.desc->start_sector / block_sectors;
  const uint64_t last =
      (io.desc->start_sector + std::max(io.desc->nr_sectors, 1U) - 1) /
      block_sectors;
  memory_->mark(first, last - first + 1);
}

void Track::end_write(Io& io) {
  memory_->end_request(static_cast<uint8_t>(io.tracked - 1));
  io.tracked = 0;
}

}  // namespace ublk
