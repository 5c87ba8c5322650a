// SPDX-License-Identifier: MIT
#include "layer/track_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include "layer/crc32c.h"
#include "layer/layer_file.h"
#include "layer/track_format.h"
#include "sys/file_lock.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using namespace track_format;
using layer_format::BitmapPlace;
using layer_format::BitmapSector;
using layer_format::SectorFault;
using layer_format::sync_data;
using layer_format::write_at;

constexpr auto kHoldWait = 30s;
constexpr uint64_t kNsPerSecond = 1'000'000'000;

// True once `tries` has it; false when the time is over.
template <typename Tries>
bool wait_for(std::chrono::milliseconds time, Tries tries) {
  const auto until = std::chrono::steady_clock::now() + time;
  while (!tries()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(kRetryPeriod);
  }
  return true;
}

Result<void> make_room(int fd, uint64_t offset, uint64_t bytes) {
  int code = 0;
  do {
    code = ::posix_fallocate(fd, static_cast<off_t>(offset),
                             static_cast<off_t>(bytes));
  } while (code == EINTR);
  if (code) return fail_sys(code, "{} bytes for a bitmap", bytes);
  return {};
}

Result<void> sync_directory(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  const std::string dir = parent.empty() ? "." : parent.string();
  const UniqueFd fd = TRY(UniqueFd::open(dir, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) != 0) return fail_sys(errno, "{}: fsync", dir);
  return {};
}

// A name that cannot be kept is none.
Result<TrackHeader::Path> write_path(int fd, uint64_t offset,
                                     const std::string& path) {
  const std::string kept = path.size() > kMostPathBytes ? "" : path;
  const auto bytes = std::as_bytes(std::span(kept));
  TRY(write_at(fd, bytes, offset));
  return TrackHeader::Path{.offset = offset,
                           .bytes = static_cast<uint32_t>(kept.size()),
                           .checksum = crc32c(bytes)};
}

Result<void> fill(int fd, TrackHeader header, const std::string& image_path) {
  if (::ftruncate(fd, static_cast<off_t>(file_bytes(header))) != 0)
    return fail_sys(errno, "making it {} bytes long", file_bytes(header));
  header.path = TRY(write_path(fd, kPathOffset, image_path));
  TRY(sync_data(fd));
  TRY(write_at(fd, bytes_of(encode_header(header)), 0));
  return sync_data(fd);
}

template <typename Sector>
Result<Sector> read_sector(int fd, uint64_t offset) {
  Sector sector{};
  TRY(layer_format::read_at(fd, std::as_writable_bytes(std::span(&sector, 1)),
                            offset));
  return sector;
}

uint64_t now_ns() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(
          std::chrono::system_clock::now().time_since_epoch())
          .count());
}

}  // namespace

Result<TrackedImage> TrackedImage::of(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return fail_sys(errno, "looking at it");
  TrackedImage image{.identity = TRY(FileIdentity::of(fd)),
                     .size_bytes = static_cast<uint64_t>(st.st_size)};
  if (image.identity.is_block &&
      ::ioctl(fd, BLKGETSIZE64, &image.size_bytes) != 0)
    return fail_sys(errno, "its size");
  image.identity.disk_id.resize(
      std::min(image.identity.disk_id.size(), kMostDiskId));
  if (!image.identity.is_block)
    image.mtime_ns = static_cast<int64_t>(
        static_cast<uint64_t>(st.st_mtim.tv_sec) * kNsPerSecond +
        static_cast<uint64_t>(st.st_mtim.tv_nsec));
  return image;
}

Result<TrackedImage> TrackedImage::at(const std::string& path) {
  const UniqueFd fd = TRY(UniqueFd::open(path, O_RDONLY | O_NONBLOCK));
  return TRY_IN(path, of(fd.get()));
}

bool TrackedImage::is_file(const TrackedImage& other) const {
  const FileIdentity& a = identity;
  const FileIdentity& b = other.identity;
  if (a.is_block || b.is_block) return a.same_as(b);
  return a.ino == b.ino && a.born_ns == b.born_ns;
}

bool TrackedImage::is_unchanged(const TrackedImage& other) const {
  return is_file(other) && size_bytes == other.size_bytes &&
         mtime_ns == other.mtime_ns;
}

Result<void> TrackFile::create(const std::string& path,
                               const TrackHeader& header,
                               const std::string& image_path) {
  TrackHeader whole = header;
  whole.uuid = TRY_IN(path, new_uuid());
  whole.all = true;
  whole.marks_offset = kMarksOffset;
  whole.bitmap_offset = kBitmapOffset;
  const UniqueFd fd =
      TRY(UniqueFd::open(path, O_RDWR | O_CREAT | O_EXCL, 0600));
  auto done = fill(fd.get(), whole, image_path);
  if (!done) done = std::unexpected(std::move(done).error().in(path));
  if (done) done = sync_directory(path);
  if (!done) ::unlink(path.c_str());
  return done;
}

Result<TrackFile> TrackFile::open(const std::string& path, Use use) {
  UniqueFd fd = TRY(UniqueFd::open(
      path, (use == Use::look ? O_RDONLY : O_RDWR) | O_NONBLOCK));
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_sys(errno, "{}: fstat", path);
  if (!S_ISREG(st.st_mode))
    return fail(EINVAL, "{}: is not a regular file, as a track file is", path);
  TrackFile file(path, std::move(fd));
  TRY(file.reload());
  return file;
}

Result<void> TrackFile::reload() {
  auto sector = read_sector<HeaderSector>(fd_.get(), 0);
  if (!sector && sector.error().code() == EPROTO)
    return fail(EPROTO, "{}: is not a track file: it is shorter than a header",
                path_);
  if (!sector) return std::unexpected(std::move(sector).error().in(path_));
  const TrackHeader header = TRY_IN(path_, decode_header(bytes_of(*sector)));
  struct stat st{};
  if (::fstat(fd_.get(), &st) != 0) return fail_sys(errno, "{}: fstat", path_);
  if (static_cast<uint64_t>(st.st_size) < file_bytes(header))
    return fail(EPROTO, "{}: is cut short: has {} bytes of {}", path_,
                st.st_size, file_bytes(header));
  std::vector<TrackMark> marks;
  for (uint64_t n = header.oldest(); n && n <= header.period; n++) {
    const auto mark = TRY_IN(
        path_, read_sector<MarkSector>(
                   fd_.get(), header.marks_offset + n % kSlots * kSectorBytes));
    marks.push_back(TRY_IN(path_, decode_mark(header.uuid, n, mark)));
  }
  header_ = header;
  marks_ = std::move(marks);
  return {};
}

Result<void> TrackFile::lock() {
  int code = 0;
  const bool locked = wait_for(kLockWait, [&] {
    code = ::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    return code != EWOULDBLOCK && code != EINTR;
  });
  if (locked && !code) return {};
  if (code != EWOULDBLOCK) return fail_sys(code, "{}: flock", path_);
  const std::string who = lock_holder(fd_.get());
  return std::unexpected(
      Error::plain(EBUSY, fmt("{}: is in use{}{}", path_,
                              who.empty() ? "" : " by ", who))
          .hint("each device has a track file of its own"));
}

// Beside the other lock, which is of another kind: this one is for commands
// while a server has that.
Result<void> TrackFile::hold(bool exclusive) {
  int code = 0;
  const bool held = wait_for(kHoldWait, [&] {
    struct flock lock{};
    lock.l_type = static_cast<short>(exclusive ? F_WRLCK : F_RDLCK);
    lock.l_whence = SEEK_SET;
    code = ::fcntl(fd_.get(), F_OFD_SETLK, &lock) == 0 ? 0 : errno;
    return code != EAGAIN && code != EACCES && code != EINTR;
  });
  if (held && !code) return {};
  if (!held) return fail(EBUSY, "{}: another command is at work on it", path_);
  return fail_sys(code, "{}: lock", path_);
}

void TrackFile::release() {
  struct flock lock{};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  ::fcntl(fd_.get(), F_OFD_SETLK, &lock);
}

uint64_t TrackFile::slot_offset(uint64_t slot) const {
  return header_.bitmap_offset + slot * slot_bytes(header_);
}

// The current one has a place of its own.
uint64_t TrackFile::slot_of(uint64_t number) const {
  return number == header_.period ? kSlots : number % kSlots;
}

// Whose bitmap it is. Before the first mark it is the file's.
Uuid TrackFile::uuid_of(uint64_t number) const {
  const auto it = std::ranges::find(marks_, number, &TrackMark::number);
  return it == marks_.end() ? header_.uuid : it->uuid;
}

Result<void> TrackFile::write_header(const TrackHeader& header) {
  TRY_IN(path_, write_at(fd_.get(), bytes_of(encode_header(header)), 0));
  TRY_IN(path_, sync_data(fd_.get()));
  header_ = header;
  return {};
}

Result<void> TrackFile::write_mark(const TrackMark& mark) const {
  return write_at(fd_.get(), bytes_of(encode_mark(header_.uuid, mark)),
                  header_.marks_offset + mark.number % kSlots * kSectorBytes);
}

// All of the slot: what is not 0 there is of another period.
Result<void> TrackFile::write_bits(uint64_t slot,
                                   std::span<const uint64_t> bits) const {
  constexpr uint64_t kAtOnce = 2048;  // sectors
  const uint64_t nr_sectors = BlockMap::sectors_for(header_.nr_blocks());
  const Uuid of = uuid_of(header_.period);
  TRY(make_room(fd_.get(), slot_offset(slot), slot_bytes(header_)));
  std::vector<BitmapSector> sectors;
  for (uint64_t number = 0; number < nr_sectors;) {
    const uint64_t first = number;
    sectors.clear();
    for (; number < nr_sectors && sectors.size() < kAtOnce; number++) {
      BlockMap::SectorBits own{};
      const uint64_t from =
          std::min(number * BlockMap::kSectorWords, bits.size());
      std::ranges::copy(
          bits.subspan(from, std::min(bits.size() - from, own.size())),
          own.begin());
      sectors.push_back(layer_format::encode_bits(of, number, own));
    }
    TRY(write_at(fd_.get(), std::as_bytes(std::span(sectors)),
                 slot_offset(slot) + first * kSectorBytes));
  }
  return {};
}

Result<std::string> TrackFile::image_path() const {
  std::string path(header_.path.bytes, 0);
  const auto bytes = std::as_writable_bytes(std::span(path));
  TRY_IN(path_, layer_format::read_at(fd_.get(), bytes, header_.path.offset));
  if (path.empty() || path.contains('\0') ||
      crc32c(bytes) != header_.path.checksum)
    return fail(EPROTO, "{}: the name of its image is damaged", path_);
  return path;
}

Result<void> TrackFile::begin_use(const TrackedImage& image,
                                  const std::string& image_path, bool all) {
  TRY_IN(path_, make_room(fd_.get(), slot_offset(kSlots), slot_bytes(header_)));
  TrackHeader header = header_;
  // A crash in the middle leaves a name that is not valid; the next use mends
  // it.
  if (const auto noted = this->image_path(); !noted || *noted != image_path) {
    header.path =
        TRY_IN(path_, write_path(fd_.get(), header.path.offset, image_path));
    TRY_IN(path_, sync_data(fd_.get()));
  }
  header.in_use = true;
  header.all = all;
  header.image = image;
  return write_header(header);
}

Result<void> TrackFile::end_use(const TrackedImage& image,
                                std::span<const uint64_t> bits, bool all) {
  TRY_IN(path_, write_bits(kSlots, bits));
  TRY_IN(path_, sync_data(fd_.get()));
  TrackHeader header = header_;
  header.in_use = false;
  header.all = all;
  header.image = image;
  return write_header(header);
}

Result<TrackMark> TrackFile::add_mark(const std::string& name,
                                      std::span<const uint64_t> bits,
                                      bool all) {
  TrackMark next{.number = header_.period + 1,
                 .time_ns = now_ns(),
                 .uuid = TRY_IN(path_, new_uuid()),
                 .name = name};
  if (next.name.empty()) next.name = fmt("{}", next.number);
  if (std::ranges::contains(marks_, next.name, &TrackMark::name))
    return std::unexpected(
        Error::plain(EEXIST, fmt("{}: has a mark '{}'", path_, next.name))
            .hint("ublk-bpf track list shows them"));
  // Nobody asks for what was before the first mark.
  if (!marks_.empty()) {
    TRY_IN(path_, write_bits(header_.period % kSlots, bits));
    TrackMark ended = marks_.back();
    ended.all = all;
    TRY_IN(path_, write_mark(ended));
  }
  TRY_IN(path_, write_mark(next));
  TRY_IN(path_, sync_data(fd_.get()));
  TrackHeader header = header_;
  header.period = next.number;
  header.all = false;
  TRY(write_header(header));
  TRY(reload());
  return next;
}

Result<bool> TrackFile::add_period(uint64_t number, TrackBits& bits) const {
  bool intact = true;
  bits.resize(BlockMap::words_for(header_.nr_blocks()));
  const BitmapPlace place{.of = uuid_of(number),
                          .offset = slot_offset(slot_of(number)),
                          .nr_blocks = header_.nr_blocks()};
  TRY_IN(path_, layer_format::for_each_sector(
                    fd_.get(), place,
                    [&](uint64_t sector, SectorFault fault,
                        const BlockMap::SectorBits& own) -> Result<void> {
                      intact &= fault == SectorFault::none;
                      const uint64_t from = sector * BlockMap::kSectorWords;
                      for (uint64_t i = 0;
                           i < own.size() && from + i < bits.size(); i++)
                        bits[from + i] |= own[i];
                      return {};
                    }));
  return intact;
}

Result<void> check_mark_name(const std::string& name) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' ||
           c == ':' || c == '+';
  };
  if (name.empty() || name.size() > kMostMarkName ||
      !std::ranges::all_of(name, fits))
    return fail(EINVAL,
                "--name {}: is not 1 to {} of the characters a-z, A-Z, 0-9, -, "
                "_, ., : and +",
                name, kMostMarkName);
  if (std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; }))
    return fail(EINVAL,
                "--name {}: is a number, which marks without a name have",
                name);
  return {};
}

}  // namespace ublk
