// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "sys/error.h"
#include "sys/file_identity.h"
#include "sys/unique_fd.h"

namespace ublk {

struct BackingOptions {
  bool read_only = false;
  bool buffered = false;  // no O_DIRECT, even where it works
  // Tries what fallocate() can do to a file, for a device that is to announce
  // it. Waits while the file's file system is frozen.
  bool try_fallocate = false;
  // A descriptor of the file, which is opened through it once more: what has
  // its name may be another file by now, or none. -1: by its name.
  int again = -1;
};

// An open regular file or block device that holds a device's data, and what
// it can do. Destruction closes the file; a program that is attached keeps
// its own reference.
struct Backing {
  // Absolute. Of a regular file without symbolic links; a disk's is as given:
  // what the kernel calls it may be another disk next time.
  std::string path;
  FileIdentity identity{};
  UniqueFd fd;
  bool is_block = false;
  bool direct = false;  // open with O_DIRECT
  bool rotational = false;
  dev_t rdev = 0;  // of a block device
  // A write that is done is lost with the power until the file is synced.
  bool volatile_cache = true;
  uint64_t size_bytes = 0;
  // What direct I/O has to be aligned to, in bytes; 1 if buffered.
  uint32_t offset_align = 1;
  uint32_t memory_align = 1;
  // Block size, smallest and best I/O to advertise. In bytes, powers of two.
  uint32_t physical_bytes = 512;
  uint32_t io_min_bytes = 512;
  uint32_t io_opt_bytes = 512;
  // By fallocate(), in each mode that it takes. 0: not supported, or of a file
  // not tried.
  uint64_t max_discard_bytes = 0;
  uint64_t max_write_zeroes_bytes = 0;
  uint32_t discard_granularity_bytes = 0;

  // EISDIR and EINVAL: neither a regular file nor a block device.
  static Result<Backing> open(const std::string& path,
                              const BackingOptions& options);
  // ESTALE: it is not this one; names both.
  Result<void> check_is(const FileIdentity& wanted) const;
};

}  // namespace ublk
