// SPDX-License-Identifier: MIT
#include "layer/layer_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "sys/file_lock.h"

namespace ublk::layer_format {

namespace {

// A sector that another process is writing can be seen half new: it is read
// again before it counts as damaged.
constexpr int kReadAgain = 3;
constexpr int kRelaxTries = 250;  // 5 s

Error in_use(int fd, const std::string& path, Layer::Use use) {
  const std::string who = lock_holder(fd);
  const std::string by = who.empty() ? "" : fmt(" by {}", who);
  if (use == Layer::Use::below)
    return Error::plain(
               EBUSY,
               fmt("{}: is being written{}, and so cannot be a base", path, by))
        .hint(
            "stop its device, or take a snapshot of that: a snapshot is "
            "what other layers can be on");
  // Those that have it shared let others do so too.
  const bool shared = ::flock(fd, LOCK_SH | LOCK_NB) == 0;
  if (shared) ::flock(fd, LOCK_UN);
  return Error::plain(EBUSY,
                      fmt("{}: is in use{}{}", path,
                          shared ? " as the base of another layer" : "", by))
      .hint(shared ? "nothing is written to a base: create a layer on it"
                   : "a layer is written by one server at a time");
}

}  // namespace

Result<void> read_at(int fd, std::span<std::byte> into, uint64_t offset) {
  while (!into.empty()) {
    const ssize_t got =
        ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_sys(errno, "read at offset {}", offset);
    if (got == 0)
      return fail(EPROTO, "is cut short: it ends at offset {}", offset);
    offset += static_cast<uint64_t>(got);
    into = into.subspan(static_cast<size_t>(got));
  }
  return {};
}

Result<void> write_at(int fd, std::span<const std::byte> from,
                      uint64_t offset) {
  while (!from.empty()) {
    const ssize_t put =
        ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_sys(errno, "write at offset {}", offset);
    offset += static_cast<uint64_t>(put);
    from = from.subspan(static_cast<size_t>(put));
  }
  return {};
}

Result<void> sync_data(int fd) {
  while (::fdatasync(fd) != 0)
    if (errno != EINTR) return fail_sys(errno, "fdatasync");
  return {};
}

Result<UniqueFd> open_buffered(int fd, bool read_only) {
  return UniqueFd::open(fmt("/proc/self/fd/{}", fd),
                        read_only ? O_RDONLY : O_RDWR);
}

Result<void> lock(int fd, const std::string& path, Layer::Use use) {
  if (use == Layer::Use::look) return {};
  const int how = use == Layer::Use::top ? LOCK_EX : LOCK_SH;
  while (::flock(fd, how | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return std::unexpected(in_use(fd, path, use));
    if (errno != EINTR) return fail_sys(errno, "{}: flock", path);
  }
  return {};
}

Result<void> relax_lock(int fd, const std::string& path) {
  // The kernel gives the old lock up before it takes the new one. Who gets in
  // between sees that the layer is sealed, and goes.
  for (int i = 0; i < kRelaxTries; i++) {
    if (::flock(fd, LOCK_SH | LOCK_NB) == 0) return {};
    if (errno != EINTR && errno != EWOULDBLOCK)
      return fail_sys(errno, "{}: flock", path);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return std::unexpected(in_use(fd, path, Layer::Use::below));
}

std::string resolved(const std::string& layer_path, const std::string& stored) {
  const auto dir = std::filesystem::path(layer_path).parent_path();
  return (dir / stored).string();
}

Result<Decoded> read_header(int fd, const std::string& path) {
  std::array<std::byte, kSectorBytes> bytes{};
  auto got = read_at(fd, bytes, 0);
  if (!got && got.error().code() == EPROTO)
    return fail(EPROTO, "is not a layer: it is shorter than a header");
  if (!got) return std::unexpected(std::move(got).error());
  auto decoded = decode_header(bytes);
  for (int i = 0; !decoded && i < kReadAgain; i++) {
    TRY(read_at(fd, bytes, 0));
    decoded = decode_header(bytes);
  }
  if (!decoded) return decoded;
  LayerBase& base = decoded->header.base;
  if (base.kind == LayerBase::Kind::none) return decoded;
  base.stored_path.resize(decoded->path.bytes);
  TRY(read_at(fd, std::as_writable_bytes(std::span(base.stored_path)),
              decoded->path.offset));
  if (decoded->path.checksum !=
      path_checksum(decoded->header.uuid, base.stored_path))
    return fail(EPROTO, "the base's path: the checksum is wrong");
  if (base.stored_path.contains('\0'))
    return fail(EPROTO, "the base's path: has a NUL in it");
  base.path = resolved(path, base.stored_path);
  return decoded;
}

Result<void> make_room(int fd, const LayerHeader& header) {
  const uint64_t bytes =
      BlockMap::sectors_for(header.nr_blocks()) * kSectorBytes;
  int done = 0;
  do {
    done = ::fallocate(fd, FALLOC_FL_KEEP_SIZE, 0,
                       static_cast<off_t>(header.bitmap_offset + bytes));
  } while (done != 0 && errno == EINTR);
  if (done == 0 || errno == EOPNOTSUPP) return {};
  return fail_sys(errno, "{} bytes for its map", bytes);
}

void drop_cache(int fd, uint64_t from, uint64_t to) {
  ::posix_fadvise(fd, static_cast<off_t>(from), static_cast<off_t>(to - from),
                  POSIX_FADV_DONTNEED);
}

Result<void> for_each_data(
    int fd, uint64_t from, uint64_t to,
    const std::function<Result<void>(uint64_t from, uint64_t to)>& with) {
  while (from < to) {
    off_t data = ::lseek(fd, static_cast<off_t>(from), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    // Where holes are not known, all is data.
    if (data < 0 && errno != EINVAL && errno != EOPNOTSUPP)
      return fail_sys(errno, "looking for data from offset {}", from);
    const bool knows = data >= 0;
    const uint64_t begin = knows ? static_cast<uint64_t>(data) : from;
    if (begin >= to) return {};
    const off_t hole =
        knows ? ::lseek(fd, static_cast<off_t>(begin), SEEK_HOLE) : -1;
    const uint64_t end =
        hole > data ? std::min(static_cast<uint64_t>(hole), to) : to;
    TRY(with(begin, end));
    from = end;
  }
  return {};
}

Result<void> for_each_sector(int fd, const BitmapPlace& bitmap,
                             const WithSector& with) {
  constexpr uint64_t kAtOnce = 2048;  // sectors
  std::vector<BitmapSector> sectors(kAtOnce);
  const uint64_t first = bitmap.offset;
  const uint64_t end =
      first + BlockMap::sectors_for(bitmap.nr_blocks) * kSectorBytes;
  // Space that was never written counts as data where pages in the cache have
  // it: readahead would go through all of it, and be followed.
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  drop_cache(fd, first, end);
  uint64_t next = 0;  // that was not looked at
  return for_each_data(
      fd, first, end, [&](uint64_t from, uint64_t to) -> Result<void> {
        // Holes can be of any size.
        next = std::max(next, (from - first) / kSectorBytes);
        const uint64_t last = (to - first + kSectorBytes - 1) / kSectorBytes;
        while (next < last) {
          const uint64_t count = std::min(kAtOnce, last - next);
          const auto part = std::span(sectors).first(count);
          TRY(read_at(fd, std::as_writable_bytes(part),
                      first + next * kSectorBytes));
          for (BitmapSector& sector : part) {
            BlockMap::SectorBits bits;
            SectorFault fault = decode_bits(bitmap.of, next, sector, bits);
            for (int i = 0; fault != SectorFault::none && i < kReadAgain; i++) {
              TRY(read_at(fd, std::as_writable_bytes(std::span(&sector, 1)),
                          first + next * kSectorBytes));
              fault = decode_bits(bitmap.of, next, sector, bits);
            }
            TRY(with(next, fault, bits));
            next++;
          }
        }
        return {};
      });
}

std::string fault_text(const LayerHeader& header, uint64_t number,
                       SectorFault fault) {
  const uint64_t first = number * BlockMap::kSectorBits;
  const uint64_t last =
      std::min(first + BlockMap::kSectorBits, header.nr_blocks()) - 1;
  return fmt(
      "bitmap sector {} at offset {}: {}: which of the blocks {} to {} are "
      "present is not known",
      number, header.bitmap_offset + number * kSectorBytes,
      fault == SectorFault::checksum ? "the checksum is wrong"
                                     : "it is another sector of the bitmap",
      first, last);
}

bool has_stray_bits(const LayerHeader& header, uint64_t number,
                    const BlockMap::SectorBits& bits) {
  const uint64_t nr_blocks = header.nr_blocks();
  if ((number + 1) * BlockMap::kSectorBits <= nr_blocks) return false;
  for (uint64_t i = 0; i < bits.size(); i++) {
    const uint64_t first = (number * BlockMap::kSectorWords + i) * 64;
    const uint64_t here =
        first >= nr_blocks ? 0 : std::min<uint64_t>(64, nr_blocks - first);
    if (here < 64 && bits[i] >> here) return true;
  }
  return false;
}

Result<void> change_header(int fd,
                           const std::function<void(HeaderSector&)>& with) {
  HeaderSector sector{};
  const auto bytes = std::as_writable_bytes(std::span(&sector, 1));
  TRY(read_at(fd, bytes, 0));
  TRY(decode_header(bytes_of(sector)));
  with(sector);
  put_checksum(sector);
  TRY(write_at(fd, bytes, 0));
  return sync_data(fd);
}

Result<void> seal(int fd) {
  return change_header(fd, [](HeaderSector& sector) {
    sector.read_only = sector.read_only | kSealed;
  });
}

}  // namespace ublk::layer_format
