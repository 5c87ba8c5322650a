// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "server/clone.h"
#include "server/target.h"
#include "sys/ring.h"
#include "sys/ublk_cmd.h"

namespace ublk {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = kKiB * kKiB;
inline constexpr uint64_t kSector = 512;
using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(uint64_t count, uint64_t seed) {
  Bytes bytes(count);
  std::mt19937_64 random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() | 1);
  return bytes;
}
// A directory of its own, which goes with it.
class Directory {
 public:
  Directory() {
    std::string name = testing::TempDir() + "ublk-bpf-clone-XXXXXX";
    if (::mkdtemp(name.data())) path_ = name;
  }
  Directory(const Directory&) = delete;
  ~Directory() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  std::string file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

// What a test does with a clone, as its server would.
class Served {
 public:
  explicit Served(const std::string& layer, bool with_buffers = true)
      : with_buffers_(with_buffers) {
    TargetSpec spec;
    spec.type = "clone";
    spec.files = {layer};
    spec.max_io_bytes = kMiB;
    auto target = open_target(spec);
    if (!target) throw std::runtime_error(target.error().line());
    target_ = std::move(*target);
  }
  Target& target() { return target_; }
  Clone& clone() { return *target_.clone; }
  Layer& top() { return clone().top(); }

  // Begins to serve: with memory that outlives it, if there is some.
  Result<void> take(std::vector<uint64_t>* memory = nullptr,
                    bool adopt = false) {
    const auto make = [memory, adopt](const LayerHeader&,
                                      uint64_t words) -> Result<Clone::Memory> {
      if (!adopt) memory->assign(words, 0);
      return Clone::Memory{.words = *memory};
    };
    TRY(clone().take(memory ? make : Clone::MakeMemory(), adopt));
    ring_.emplace(TRY(make_ring()));
    return {};
  }
  // As each queue has one.
  Result<Ring> make_ring() const {
    std::vector<int> files = {-1};
    for (const Backing& file : target_.files) files.push_back(file.fd.get());
    files.insert(files.end(), target_.more_files.begin(),
                 target_.more_files.end());
    return Ring::for_queue(8, files);
  }
  io_uring* ring() { return ring_->get(); }
  bool with_buffers() const { return with_buffers_; }

 private:
  bool with_buffers_;
  Target target_;
  std::optional<Ring> ring_;
};

// A request between two of its SQEs.
class Request {
 public:
  Request(Served& served, uint32_t op, uint64_t at, uint64_t len,
          const Bytes& data = {}, io_uring* ring = nullptr)
      : served_(served),
        ring_(ring ? ring : served.ring()),
        memory_(static_cast<std::byte*>(
            std::aligned_alloc(4096, (len + 4095) / 4096 * 4096 + 4096))) {
    desc_.op_flags = op;
    desc_.start_sector = at / kSector;
    desc_.nr_sectors = static_cast<uint32_t>(len / kSector);
    std::memset(memory_, 0xa5, len);
    std::ranges::copy(data, memory_);
    io_.desc = &desc_;
    if (served.with_buffers()) io_.buf = memory_;
    result_ = served_.target().ops->start(served_.target(), io_, &sqe_);
  }
  Request(const Request&) = delete;
  ~Request() {
    io_.steps.reset();
    std::free(memory_);
  }

  uint8_t opcode() const { return sqe_.opcode; }
  bool waits() const { return opcode() == IORING_OP_FUTEX_WAIT; }
  // Whether what it waits for has come.
  bool may_go_on() const {
    return !waits() ||
           *reinterpret_cast<const uint32_t*>(sqe_.addr) != sqe_.addr2;
  }
  bool has_frame() const { return static_cast<bool>(io_.steps); }
  std::optional<int> result() const { return result_; }

  // Its SQE is done, by the kernel or with this result.
  std::optional<int> step(std::optional<int> res = {}) {
    const int come = res ? *res : issue();
    sqe_ = {};
    return result_ =
               served_.target().ops->done(served_.target(), io_, come, &sqe_);
  }
  int finish() {
    while (!result_) step();
    return *result_;
  }
  Bytes data() const { return Bytes(memory_, memory_ + io_.len_bytes()); }
  uint64_t at() const { return desc_.start_sector * kSector; }
  uint64_t len() const { return uint64_t{desc_.nr_sectors} * kSector; }
  uint8_t op() const { return io_.op(); }

 private:
  int issue() {
    io_uring_sqe* sqe = io_uring_get_sqe(ring_);
    *sqe = sqe_;
    // As a path without buffers does it.
    if (!io_.buf &&
        (sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_WRITE))
      sqe->addr += reinterpret_cast<uintptr_t>(memory_);
    io_uring_submit_and_wait(ring_, 1);
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(ring_, &cqe)) return -ENODATA;
    const int res = cqe->res;
    io_uring_cqe_seen(ring_, cqe);
    return res;
  }

  Served& served_;
  io_uring* ring_;
  std::byte* memory_;
  ublksrv_io_desc desc_{};
  Io io_;
  io_uring_sqe sqe_{};
  std::optional<int> result_;
};

inline Bytes read(Served& served, uint64_t at, uint64_t len) {
  Request request(served, UBLK_IO_OP_READ, at, len);
  EXPECT_EQ(request.finish(), static_cast<int>(len));
  return request.data();
}
inline void write(Served& served, uint64_t at, const Bytes& data,
                  uint32_t flags = 0) {
  Request request(served, UBLK_IO_OP_WRITE | flags, at, data.size(), data);
  EXPECT_EQ(request.finish(), static_cast<int>(data.size()));
}
inline int flush(Served& served) {
  return Request(served, UBLK_IO_OP_FLUSH, 0, 0).finish();
}
class CloneTarget : public testing::Test {
 protected:
  std::string layer(const std::string& name, const std::string& base,
                    uint64_t block = 4096, uint64_t size = 0) {
    const auto made =
        Layer::create({.path = directory_.file(name),
                       .size_bytes = size,
                       .block_bytes = static_cast<uint32_t>(block),
                       .base = base});
    EXPECT_TRUE(made) << made.error().line();
    return directory_.file(name);
  }
  std::string base(uint64_t bytes, uint64_t seed = 1) {
    write_file(directory_.file("base"), bytes_of(bytes, seed));
    return directory_.file("base");
  }
  Directory directory_;
};

}  // namespace ublk
