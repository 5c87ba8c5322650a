// SPDX-License-Identifier: MIT
#include "sys/ring.h"

#include <cerrno>

namespace ublk {

void Ring::Exit::operator()(io_uring* ring) const {
  // The teardown of a ring is finished by a kernel worker. Giving the files
  // back here, from the submitting thread, does not leave the last reference
  // to /dev/ublkcN to it.
  io_uring_unregister_files(ring);
  io_uring_queue_exit(ring);
  delete ring;
}

Result<Ring> Ring::create(unsigned entries, unsigned flags) {
  auto* raw = new io_uring{};
  io_uring_params params{};
  params.flags = flags;
  int ret = io_uring_queue_init_params(entries, raw, &params);
  if (ret < 0) {
    delete raw;
    const int code = errno_of(ret);
    auto error = Error::sys(code, fmt("io_uring of {} entries", entries));
    if (code == EPERM)
      return std::unexpected(std::move(error).hint(
          "sysctl kernel.io_uring_disabled=0 allows io_uring"));
    if (code == ENOSYS)
      return std::unexpected(
          std::move(error).hint("this kernel is built without io_uring"));
    return std::unexpected(std::move(error));
  }
  // A child's mapping would keep it alive.
  io_uring_ring_dontfork(raw);
  return Ring(std::unique_ptr<io_uring, Exit>(raw));
}

Result<Ring> Ring::for_control() { return create(4, IORING_SETUP_SQE128); }

Result<Ring> Ring::for_queue(unsigned entries, std::span<const int> files) {
  constexpr unsigned base = IORING_SETUP_SINGLE_ISSUER |
                            IORING_SETUP_DEFER_TASKRUN |
                            IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP;
  auto made = create(entries, base | IORING_SETUP_NO_SQARRAY);
  // Since 6.6; without it only an indirection is lost.
  if (!made && made.error().code() == EINVAL) made = create(entries, base);
  Ring ring = TRY(std::move(made));
  int ret = io_uring_register_files(ring.get(), files.data(), files.size());
  if (ret < 0)
    return fail_sys(errno_of(ret), "registration of {} files", files.size());
  // Saves a lookup per system call; its failure costs only that.
  io_uring_register_ring_fd(ring.get());
  return ring;
}

Result<void> Ring::add_buffer_table(unsigned buffers) {
  const int ret = io_uring_register_buffers_sparse(ring_.get(), buffers);
  if (ret < 0)
    return fail_sys(errno_of(ret), "registration of {} buffers", buffers);
  return {};
}

}  // namespace ublk
