// SPDX-License-Identifier: MIT
//
// Object files, up to libbpf: whether a file is let through to it, and what is
// made of a log. libbpf itself is not fuzzed here; 1.5 reads past the end of
// objects whose struct_ops sections are forged.

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "prog/object.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int fd = ::memfd_create("object", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(fd);
  must(::ftruncate(fd, 0) == 0 &&
           ::pwrite(fd, data, size, 0) == static_cast<ssize_t>(size),
       "there is memory for a file");
  const auto checked = ublk::check_object_file(path);
  must(checked || !checked.error().line().empty(), "a refusal says why");
  must(!checked || size >= 64, "what has no header is no object");
  const std::string log(reinterpret_cast<const char*>(data), size);
  const std::string cause = ublk::verifier_cause(log);
  must(cause.empty() || log.contains(cause), "a cause is a line of the log");
  must(!cause.contains('\n'), "and no more");
  return 0;
}
