// SPDX-License-Identifier: MIT
#include "sys/mmap_region.h"

#include <sys/mman.h>

#include <cerrno>

namespace ublk {

Result<MmapRegion> MmapRegion::map_file(int fd, off_t off_bytes,
                                        size_t len_bytes) {
  void* addr = ::mmap(nullptr, len_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE,
                      fd, off_bytes);
  if (addr == MAP_FAILED) return fail_sys(errno, "mmap of {} bytes", len_bytes);
  // A child's mapping would hold the file: the driver takes it for a server.
  ::madvise(addr, len_bytes, MADV_DONTFORK);
  return MmapRegion(addr, len_bytes);
}

Result<MmapRegion> MmapRegion::shared(int fd, size_t len_bytes) {
  void* addr =
      ::mmap(nullptr, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (addr == MAP_FAILED) return fail_sys(errno, "mmap of {} bytes", len_bytes);
  ::madvise(addr, len_bytes, MADV_DONTFORK);
  return MmapRegion(addr, len_bytes);
}

Result<MmapRegion> MmapRegion::anonymous(size_t len_bytes) {
  void* addr = ::mmap(nullptr, len_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (addr == MAP_FAILED)
    return fail_sys(errno, "mmap of {} bytes of buffers", len_bytes);
  ::madvise(addr, len_bytes, MADV_DONTFORK);
  return MmapRegion(addr, len_bytes);
}

void MmapRegion::reset() {
  if (addr_) ::munmap(std::exchange(addr_, nullptr), len_);
  len_ = 0;
}

}  // namespace ublk
