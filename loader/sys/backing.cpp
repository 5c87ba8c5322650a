// SPDX-License-Identifier: MIT
#include "sys/backing.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "sys/sizes.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

// What reads by direct I/O need, where that is less than writes do: of
// include/uapi/linux/stat.h since Linux 6.14. Debian 13's headers are of 6.12.
#ifdef STATX_DIO_READ_ALIGN
uint32_t read_offset_align(const struct statx& stx) {
  return stx.stx_dio_read_offset_align;
}
#else
constexpr uint32_t STATX_DIO_READ_ALIGN = 0x00020000;
uint32_t read_offset_align(const struct statx& stx) {
  constexpr size_t kWhere = 0xb4;
  static_assert(kWhere + sizeof(uint32_t) <= sizeof(stx));
  uint32_t align = 0;
  std::memcpy(&align, reinterpret_cast<const char*>(&stx) + kWhere,
              sizeof(align));
  return align;
}
#endif

Result<void> check_kind(const std::string& path, const struct stat& st) {
  if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) return {};
  const char* kind = S_ISDIR(st.st_mode)    ? "a directory"
                     : S_ISSOCK(st.st_mode) ? "a socket"
                     : S_ISFIFO(st.st_mode) ? "a pipe"
                     : S_ISCHR(st.st_mode)  ? "a character device"
                                            : "of another kind";
  auto error = Error::plain(S_ISDIR(st.st_mode) ? EISDIR : EINVAL,
                            fmt("{}: is {}", path, kind));
  return std::unexpected(
      std::move(error).hint("a regular file or a block device is needed"));
}

Error explain_open(Error error, const BackingOptions& options) {
  const int code = error.code();
  if (!options.read_only && (code == EROFS || code == EACCES || code == EPERM))
    return std::move(error).hint(
        "it cannot be written, which a device that is not read-only needs");
  return error;
}

// What to open it by.
std::string path_of(const std::string& path, const BackingOptions& options) {
  return options.again < 0 ? path : fmt("/proc/self/fd/{}", options.again);
}

// O_NOATIME is for the owner and root only, O_DIRECT not for every file
// system: what does not work is left out.
Result<UniqueFd> open_best(const std::string& path,
                           const BackingOptions& options, bool& direct) {
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  direct = !options.buffered;
  for (int noatime : {O_NOATIME, 0}) {
    auto fd = UniqueFd::open(path, access | noatime | (direct ? O_DIRECT : 0));
    if (!fd && fd.error().code() == EINVAL && direct) {
      direct = false;
      fd = UniqueFd::open(path, access | noatime);
    }
    if (fd || fd.error().code() != EPERM || !noatime) return fd;
  }
  std::unreachable();
}

// Tries the smallest direct read, for kernels and file systems that do not
// say what they need.
uint32_t probe_offset_align(int fd) {
  void* raw = nullptr;
  if (::posix_memalign(&raw, 4096, 4096) != 0) return 4096;
  std::unique_ptr<void, decltype(&::free)> buffer(raw, &::free);
  for (uint32_t align : {512U, 1024U, 2048U})
    if (::pread(fd, raw, align, 0) >= 0) return align;
  return 4096;
}

// Sets the alignments; falls back to buffered I/O if the file turns out not
// to support direct I/O after all.
Result<void> learn_alignment(Backing& backing, const BackingOptions& options) {
  if (!backing.direct) return {};
  struct statx stx{};
  if (::statx(backing.fd.get(), "", AT_EMPTY_PATH,
              STATX_DIOALIGN | STATX_DIO_READ_ALIGN, &stx) == 0 &&
      (stx.stx_mask & STATX_DIOALIGN)) {
    if (stx.stx_dio_offset_align == 0) {
      // Not by its name, which may be another file's by now.
      const BackingOptions again{.read_only = options.read_only,
                                 .buffered = true,
                                 .again = backing.fd.get()};
      backing.fd =
          TRY(open_best(path_of(backing.path, again), again, backing.direct));
      return {};
    }
    // Writes of extents that files share may need more.
    backing.offset_align =
        options.read_only && (stx.stx_mask & STATX_DIO_READ_ALIGN)
            ? read_offset_align(stx)
            : stx.stx_dio_offset_align;
    backing.memory_align = stx.stx_dio_mem_align;
    return {};
  }
  int logical = 0;
  if (backing.is_block && ::ioctl(backing.fd.get(), BLKSSZGET, &logical) == 0)
    backing.offset_align = static_cast<uint32_t>(logical);
  else
    backing.offset_align = probe_offset_align(backing.fd.get());
  backing.memory_align = backing.offset_align;
  return {};
}

std::string queue_file(dev_t rdev, const char* name) {
  const std::string dir = fmt("/sys/dev/block/{}:{}", major(rdev), minor(rdev));
  const std::string own = fmt("{}/queue/{}", dir, name);
  // A partition has its disk's queue.
  return ::access(own.c_str(), F_OK) == 0 ? own
                                          : fmt("{}/../queue/{}", dir, name);
}

uint32_t power_of_2_or(uint64_t value, uint32_t otherwise) {
  return is_power_of_2(value) && value >= 512 && value <= (256U << 20)
             ? static_cast<uint32_t>(value)
             : otherwise;
}

Result<void> learn_block(Backing& backing, const BackingOptions& options) {
  const int fd = backing.fd.get();
  // The kernel lets it be opened for writing, and fails the writes.
  int read_only = 0;
  if (!options.read_only && ::ioctl(fd, BLKROGET, &read_only) == 0 && read_only)
    return std::unexpected(
        Error::plain(EROFS, backing.path + ": is a read-only block device")
            .hint("it cannot be written, which a device that is not "
                  "--read-only needs"));
  if (::ioctl(fd, BLKGETSIZE64, &backing.size_bytes) != 0)
    return fail_sys(errno, "{}: getting its size", backing.path);
  unsigned physical = 0, io_min = 0, io_opt = 0;
  ::ioctl(fd, BLKPBSZGET, &physical);
  ::ioctl(fd, BLKIOMIN, &io_min);
  ::ioctl(fd, BLKIOOPT, &io_opt);
  backing.physical_bytes = power_of_2_or(physical, 512);
  backing.io_min_bytes = power_of_2_or(io_min, backing.physical_bytes);
  backing.io_opt_bytes = power_of_2_or(io_opt, backing.io_min_bytes);
  const auto limit = [&](const char* name) {
    return read_number(queue_file(backing.rdev, name)).value_or(0);
  };
  backing.rotational = limit("rotational") != 0;
  // Through the page cache every write is volatile.
  backing.volatile_cache =
      !backing.direct || !read_text(queue_file(backing.rdev, "write_cache"))
                              .value_or("")
                              .starts_with("write through");
  // fallocate() of a block device zeroes it, which both requests become.
  backing.max_write_zeroes_bytes = limit("write_zeroes_max_bytes");
  backing.max_discard_bytes = backing.max_write_zeroes_bytes;
  backing.discard_granularity_bytes =
      power_of_2_or(limit("discard_granularity"), backing.physical_bytes);
  return {};
}

bool can_fallocate(const UniqueFd& fd, int mode, off_t at) {
  return ::fallocate(fd.get(), mode | FALLOC_FL_KEEP_SIZE, at, 4096) == 0 ||
         errno == ENOSPC || errno == EDQUOT;
}

// Tried on a file without a name beside it, if there can be one: even a hole
// beyond the end changes the file's time, by which a layer knows its base, and
// zeroes take space there, which ext4 does not let be freed.
bool can_fallocate_beside(const Backing& backing, const struct stat& st,
                          int mode, off_t end) {
  const auto dir = std::filesystem::path(backing.path).parent_path();
  const auto scratch =
      UniqueFd::open(dir.string(), O_TMPFILE | O_RDWR, S_IRUSR | S_IWUSR);
  struct stat beside{};
  if (scratch && ::fstat(scratch->get(), &beside) == 0 &&
      beside.st_dev == st.st_dev)
    return can_fallocate(*scratch, mode, 0);
  return can_fallocate(backing.fd, mode, end);
}

void learn_file(Backing& backing, const struct stat& st,
                const BackingOptions& options) {
  backing.size_bytes = static_cast<uint64_t>(st.st_size);
  const uint32_t block = std::min<uint32_t>(
      power_of_2_or(static_cast<uint64_t>(st.st_blksize), 4096), 4096);
  backing.physical_bytes = std::max(block, backing.offset_align);
  backing.io_min_bytes = backing.physical_bytes;
  backing.io_opt_bytes = backing.physical_bytes;
  if (options.read_only || !options.try_fallocate) return;
  const off_t end = (st.st_size + 4095) & ~4095L;
  const auto can = [&](int mode) {
    return can_fallocate_beside(backing, st, mode, end);
  };
  const bool zeroes = can(FALLOC_FL_ZERO_RANGE);
  if (!can(FALLOC_FL_PUNCH_HOLE)) return;
  backing.max_discard_bytes = UINT64_MAX;
  backing.discard_granularity_bytes = block;
  // Zeroes that free space and zeroes that keep it have one limit. Where they
  // are not announced the kernel writes them.
  if (zeroes) backing.max_write_zeroes_bytes = UINT64_MAX;
}

std::string name_of(const std::string& path, const struct stat& st,
                    const BackingOptions& options) {
  if (options.again >= 0) return path;
  std::error_code ec;
  if (S_ISBLK(st.st_mode)) {
    const auto full = std::filesystem::absolute(path, ec);
    return ec ? path : full.string();
  }
  const auto full = std::filesystem::canonical(path, ec);
  return ec ? path : full.string();
}

}  // namespace

Result<Backing> Backing::open(const std::string& path,
                              const BackingOptions& options) {
  struct stat st{};
  const std::string by = path_of(path, options);
  // Before it is opened: to open a pipe would wait for its other end.
  if (::stat(by.c_str(), &st) != 0)
    return fail_sys(errno, "{}: looking at it", path);
  TRY(check_kind(path, st));
  Backing backing;
  backing.path = name_of(path, st, options);
  auto fd = open_best(by, options, backing.direct);
  if (!fd) return std::unexpected(explain_open(std::move(fd).error(), options));
  backing.fd = std::move(*fd);
  if (::fstat(backing.fd.get(), &st) != 0)
    return fail_sys(errno, "{}: looking at it", path);
  TRY(check_kind(path, st));
  backing.is_block = S_ISBLK(st.st_mode);
  backing.rdev = st.st_rdev;
  backing.identity = TRY_IN(path, FileIdentity::of(backing.fd.get()));
  TRY(learn_alignment(backing, options));
  if (backing.is_block)
    TRY(learn_block(backing, options));
  else
    learn_file(backing, st, options);
  return backing;
}

Result<void> Backing::check_is(const FileIdentity& wanted) const {
  if (identity.same_as(wanted)) return {};
  return std::unexpected(
      Error::plain(ESTALE,
                   fmt("{}: is another file than the device's: it is {}, the "
                       "device's is {}",
                       path, identity.text(), wanted.text()))
          .hint("put that one back, or take this one: --changed-file"));
}

}  // namespace ublk
