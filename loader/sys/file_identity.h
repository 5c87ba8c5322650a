// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "sys/error.h"

namespace ublk {

// Which file it is, whatever it is called. A name may be another file's later,
// and so may the number of an inode or a disk.
struct FileIdentity {
  bool is_block = false;
  uint64_t dev = 0;      // dev_t: that the file is on; of a disk, its own
  uint64_t ino = 0;      // of a regular file
  uint64_t born_ns = 0;  // when it was created; 0: the file system has no such
  uint64_t diskseq = 0;  // of a disk: counts those that this kernel has had
  uint64_t first_sector = 0;  // of a partition
  // What a disk says of itself (serial number, UUID), or ""; a partition has
  // its disk's.
  std::string disk_id{};

  // Of an open regular file or block device.
  static Result<FileIdentity> of(int fd);

  // Whether both are the same file. A disk that tells its identity is the same
  // wherever it is attached, one that does not only until it is taken off.
  bool same_as(const FileIdentity& other) const;
  // "inode 12 on 8:1, of 2026-11-26T01:02:03Z", "disk 8:16, number 7, ID".
  std::string text() const;
};

}  // namespace ublk
