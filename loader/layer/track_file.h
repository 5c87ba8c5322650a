// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "layer/uuid.h"
#include "sys/error.h"
#include "sys/file_identity.h"
#include "sys/unique_fd.h"

namespace ublk {

// A track file: which blocks of a disk image were written since each of the
// last marks. Its format is docs/track-format.md.

inline constexpr uint32_t kLeastTrackBlock = 4096;
inline constexpr uint32_t kMostTrackBlock = 16 << 20;
inline constexpr uint32_t kDefaultTrackBlock = 65536;
inline constexpr uint64_t kMostTrackBlocks = uint64_t{1} << 31;
inline constexpr uint64_t kMostTrackedBytes = uint64_t{64} << 40;
inline constexpr uint64_t kMostMarks = 15;  // that are kept
inline constexpr size_t kMostMarkName = 128;

// Which file the image is, and what it was when it was last looked at.
struct TrackedImage {
  FileIdentity identity{};
  uint64_t size_bytes = 0;
  int64_t mtime_ns = 0;  // 0 for block devices
  static Result<TrackedImage> of(int fd);
  // By its name, without touching it.
  static Result<TrackedImage> at(const std::string& path);
  // The same file, also after another start of the machine, which may number
  // the disks in another way.
  bool is_file(const TrackedImage& other) const;
  // And nobody has written to it, as far as its time tells.
  bool is_unchanged(const TrackedImage& other) const;
};

// What a track file is about.
struct TrackHeader {
  Uuid uuid{};
  uint64_t size_bytes = 0;    // of the device, a multiple of 512
  uint64_t offset_bytes = 0;  // of its first byte in the image
  uint32_t block_bytes = 0;   // a power of two
  bool in_use = false;        // what was written last is not in the file
  bool all = false;           // in the current period all counts as changed
  uint64_t period = 0;        // the number of the last mark; 0: none yet
  TrackedImage image{};
  struct Path {
    uint64_t offset = 0;
    uint32_t bytes = 0;
    uint32_t checksum = 0;
  } path{};  // where the name of the image is
  uint64_t marks_offset = 0;
  uint64_t bitmap_offset = 0;
  uint64_t nr_blocks() const {
    return size_bytes / block_bytes + (size_bytes % block_bytes != 0);
  }
  // The oldest mark that is kept; 0: none.
  uint64_t oldest() const {
    return period > kMostMarks ? period - kMostMarks + 1 : period ? 1 : 0;
  }
};

// A mark, and the period that began with it.
struct TrackMark {
  uint64_t number = 0;
  uint64_t time_ns = 0;  // since 1970
  bool all = false;      // of a period that has ended: all counts as changed
  Uuid uuid{};
  std::string name{};
};

// Bits of blocks, 64 in a word.
using TrackBits = std::vector<uint64_t>;

// An open track file. Destruction closes it, and with it gives up its locks.
class TrackFile {
 public:
  // A new one, without a mark, durable with its directory's entry. EEXIST.
  static Result<void> create(const std::string& path, const TrackHeader& header,
                             const std::string& image_path);
  enum class Use { look, write };
  // EPROTO: not a track file, of another version, or damaged.
  static Result<TrackFile> open(const std::string& path, Use use);

  const std::string& path() const { return path_; }
  const TrackHeader& header() const { return header_; }
  // Those that are kept, the oldest first.
  const std::vector<TrackMark>& marks() const { return marks_; }
  // Header and marks as they are by now.
  Result<void> reload();
  // Of the image, when it was used last. EPROTO: is damaged.
  Result<std::string> image_path() const;

  // Of the one that serves the device, until the file is closed. EBUSY: names
  // who has it. Waits some seconds, as a server that has ended gives it up
  // late.
  Result<void> lock();
  // For the length of a change, or, shared, of a look at marks and memory that
  // fit each other. Until release(). EBUSY: waited 30 s in vain.
  Result<void> hold(bool exclusive);
  void release();

  // Before anything is written to the image. ENOSPC: no room for what is to be
  // saved later.
  Result<void> begin_use(const TrackedImage& image,
                         const std::string& image_path, bool all);
  // After all is written: the bits of the current period.
  Result<void> end_use(const TrackedImage& image,
                       std::span<const uint64_t> bits, bool all);
  // The current period ends with these bits, and the next one begins. "" is a
  // name by its number. EEXIST: there is a mark of that name. Nothing has
  // changed after an error.
  Result<TrackMark> add_mark(const std::string& name,
                             std::span<const uint64_t> bits, bool all);

  // Adds the bits of a period: of one that has ended, or of the current one as
  // it was saved. False: they are damaged, and all counts as changed.
  Result<bool> add_period(uint64_t number, TrackBits& bits) const;

 private:
  TrackFile(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}
  uint64_t slot_offset(uint64_t slot) const;
  uint64_t slot_of(uint64_t number) const;
  Uuid uuid_of(uint64_t number) const;
  Result<void> write_bits(uint64_t slot, std::span<const uint64_t> bits) const;
  Result<void> write_mark(const TrackMark& mark) const;
  Result<void> write_header(const TrackHeader& header);

  std::string path_;
  UniqueFd fd_;
  TrackHeader header_{};
  std::vector<TrackMark> marks_;
};

// EINVAL: not a name that a mark can have.
Result<void> check_mark_name(const std::string& name);

}  // namespace ublk
