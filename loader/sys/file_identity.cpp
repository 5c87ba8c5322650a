// SPDX-License-Identifier: MIT
#include "sys/file_identity.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sys/text_file.h"

namespace ublk {

namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;

// The first line, without the blanks that some disks fill it with.
std::string word_of(const std::string& path) {
  std::string text = read_text(path).value_or("");
  text.resize(std::min(text.find('\n'), text.size()));
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && is_blank(text.back())) text.pop_back();
  text.erase(0, std::min(text.find_first_not_of(" \t"), text.size()));
  return text;
}

// What the drivers have in sysfs of a disk, or of the disk of a partition.
void learn_disk(FileIdentity& disk) {
  std::string dir =
      fmt("/sys/dev/block/{}:{}", major(disk.dev), minor(disk.dev));
  if (::access((dir + "/partition").c_str(), F_OK) == 0) {
    disk.first_sector = read_number(dir + "/start").value_or(0);
    dir += "/..";
  }
  for (const char* name : {"wwid", "device/wwid", "serial", "device/serial",
                           "dm/uuid", "md/uuid"}) {
    disk.disk_id = word_of(fmt("{}/{}", dir, name));
    if (!disk.disk_id.empty()) return;
  }
}

std::string time_text(uint64_t ns) {
  const auto seconds = static_cast<time_t>(ns / kNsPerSecond);
  tm broken{};
  char text[32] = "";
  if (::gmtime_r(&seconds, &broken))
    ::strftime(text, sizeof(text), "%FT%TZ", &broken);
  return text;
}

}  // namespace

Result<FileIdentity> FileIdentity::of(int fd) {
  struct statx stx{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stx) !=
      0)
    return fail_sys(errno, "statx");
  FileIdentity identity{.is_block = S_ISBLK(stx.stx_mode)};
  if (identity.is_block) {
    identity.dev = makedev(stx.stx_rdev_major, stx.stx_rdev_minor);
    ::ioctl(fd, BLKGETDISKSEQ, &identity.diskseq);
    learn_disk(identity);
    return identity;
  }
  identity.dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
  identity.ino = stx.stx_ino;
  if (stx.stx_mask & STATX_BTIME)
    identity.born_ns =
        static_cast<uint64_t>(stx.stx_btime.tv_sec) * kNsPerSecond +
        stx.stx_btime.tv_nsec;
  return identity;
}

bool FileIdentity::same_as(const FileIdentity& other) const {
  if (is_block != other.is_block) return false;
  if (is_block) {
    const bool same_place = first_sector == other.first_sector;
    // Without sysfs the place is not known; the number alone is not reused.
    if (dev == other.dev && diskseq == other.diskseq)
      return same_place || !first_sector || !other.first_sector;
    return same_place && !disk_id.empty() && disk_id == other.disk_id;
  }
  return dev == other.dev && ino == other.ino &&
         (!born_ns || !other.born_ns || born_ns == other.born_ns);
}

std::string FileIdentity::text() const {
  if (is_block)
    return fmt("disk {}:{}, number {}{}{}{}", major(dev), minor(dev), diskseq,
               first_sector ? fmt(" from sector {}", first_sector) : "",
               disk_id.empty() ? "" : ", ", disk_id);
  return fmt("inode {} on {}:{}{}{}", ino, major(dev), minor(dev),
             born_ns ? ", of " : "", born_ns ? time_text(born_ns) : "");
}

}  // namespace ublk
