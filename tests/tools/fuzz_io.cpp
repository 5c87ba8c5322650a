// SPDX-License-Identifier: MIT
//
// fuzz-io: submitters of every kind at work on a device whose program may do
// anything with their requests, until stdin is closed or a foreign byte is
// seen. I/O may fail, but must end; and no byte that a READ returns may be one
// that nobody has written to the device or its files: those are zero or
// kFirstWritten to kLastWritten. Buffers are filled with kUnread first, so that
// a READ which succeeds without having filled them is seen too. Prints what was
// done as JSON; exit status 1 tells a foreign byte.
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>

#include "sys/error.h"
#include "sys/mmap_region.h"
#include "sys/ring.h"
#include "sys/unique_fd.h"

namespace ublk {
namespace {

constexpr uint8_t kFirstWritten = 0x40, kLastWritten = 0x5f;
constexpr uint8_t kUnread = 0xa5;
constexpr size_t kMaxBytes = 64 << 10;
constexpr unsigned kDepth = 32;

struct Options {
  std::string path;
  uint64_t size_bytes = 16 << 20;
  uint64_t seed = 1;
  unsigned threads = 4;
};

// What all threads have seen.
struct Seen {
  std::mutex lock;
  std::map<std::string, uint64_t> calls, errors;
  std::optional<std::string> foreign;

  void count(const std::string& what, int code) {
    const std::lock_guard guard(lock);
    calls[what]++;
    if (code) errors[fmt("{} {}", what, errno_name(code))]++;
  }
  bool found_foreign() {
    const std::lock_guard guard(lock);
    return foreign.has_value();
  }
};

class Submitter {
 public:
  static Result<Submitter> create(const Options& options, Seen& seen,
                                  unsigned me) {
    Submitter s(options, seen, me);
    s.direct_ = TRY(UniqueFd::open(options.path, O_RDWR | O_DIRECT));
    s.buffered_ = TRY(UniqueFd::open(options.path, O_RDWR));
    s.memory_ = TRY(MmapRegion::anonymous(kDepth * kMaxBytes));
    return s;
  }

  void run(const std::atomic<bool>& stop) {
    while (!stop) {
      switch (many_ ? 0 : 1 + random_() % 8) {
        case 0:
          ring();
          break;
        case 1:
          flush();
          break;
        case 2:
          zero();
          break;
        case 3:
          buffered_read();
          break;
        case 4:
          buffered_write();
          break;
        case 5:
          vectored_read();
          break;
        case 6:
          direct_write();
          break;
        default:
          direct_read();
      }
    }
  }

 private:
  Submitter(const Options& options, Seen& seen, unsigned me)
      : options_(options),
        seen_(seen),
        random_(options.seed * 100 + me),
        many_(me % 3 == 0) {}

  struct Range {
    off_t offset;
    size_t bytes;
  };

  // Mostly small, in sectors.
  Range range() {
    const size_t most = random_() % 4 ? 16 : kMaxBytes / 512;
    const size_t bytes = (1 + random_() % most) * 512;
    return {static_cast<off_t>(random_() %
                               ((options_.size_bytes - bytes) / 512) * 512),
            bytes};
  }

  uint8_t* buffer(unsigned n = 0) {
    return reinterpret_cast<uint8_t*>(memory_.data()) + n * kMaxBytes;
  }

  uint8_t* unread(size_t bytes, unsigned n = 0) {
    std::memset(buffer(n), kUnread, bytes);
    return buffer(n);
  }

  uint8_t* written(size_t bytes, unsigned n = 0) {
    const auto first = static_cast<uint8_t>(random_());
    for (size_t i = 0; i < bytes; i++)
      buffer(n)[i] =
          kFirstWritten + (first + i) % (kLastWritten - kFirstWritten + 1);
    return buffer(n);
  }

  // `done` bytes were read, and what follows may be as it was.
  void check(const char* what, const uint8_t* data, ssize_t done,
             const Range& r) {
    for (size_t i = 0; i < r.bytes; i++) {
      const uint8_t byte = data[i];
      if (byte == 0 || (byte >= kFirstWritten && byte <= kLastWritten))
        continue;
      if (byte == kUnread && static_cast<ssize_t>(i) >= done) continue;
      std::string text = fmt("{} of {} bytes at {}: {} done, byte {} is", what,
                             r.bytes, r.offset, done, i);
      for (size_t k = i; k < std::min(r.bytes, i + 32); k++)
        text += fmt(" {:02x}", data[k]);
      const std::lock_guard guard(seen_.lock);
      if (!seen_.foreign) seen_.foreign = text;
      return;
    }
  }

  ssize_t count(const char* what, ssize_t result) {
    seen_.count(what, result < 0 ? errno : 0);
    return result < 0 ? 0 : result;
  }

  void direct_read() {
    const Range r = range();
    uint8_t* data = unread(r.bytes);
    check("read", data,
          count("read", ::pread(direct_.get(), data, r.bytes, r.offset)), r);
  }

  void direct_write() {
    const Range r = range();
    count("write",
          ::pwrite(direct_.get(), written(r.bytes), r.bytes, r.offset));
  }

  void buffered_read() {
    const Range r = range();
    if (random_() % 4 == 0) ::ioctl(buffered_.get(), BLKFLSBUF, 0);
    uint8_t* data = unread(r.bytes);
    check("buffered read", data,
          count("buffered read",
                ::pread(buffered_.get(), data, r.bytes, r.offset)),
          r);
  }

  void buffered_write() {
    const Range r = range();
    count("buffered write",
          ::pwrite(buffered_.get(), written(r.bytes), r.bytes, r.offset));
    if (random_() % 4 == 0) count("fdatasync", ::fdatasync(buffered_.get()));
  }

  // Memory in pieces that are no sectors.
  void vectored_read() {
    std::array<iovec, 4> parts;
    const size_t each = 512 * (1 + random_() % 8);
    const size_t step =
        random_() % 4 ? random_() % each / 1024 * 512 : random_() % 64 * 4;
    const Range r{range().offset & ~0xffffL, each * 4};
    uint8_t* data = unread(5 * kMaxBytes);
    const std::array<size_t, 4> bytes = {each - step, each + step,
                                         each + 2 * step, each - 2 * step};
    for (size_t i = 0; i < 4; i++)
      parts[i] = {data + i * kMaxBytes + step, bytes[i]};
    ssize_t left = count("vectored read",
                         ::preadv(direct_.get(), parts.data(), 4, r.offset));
    for (const auto& part : parts) {
      check("vectored read", static_cast<uint8_t*>(part.iov_base), left,
            {r.offset, part.iov_len});
      left = std::max<ssize_t>(0, left - static_cast<ssize_t>(part.iov_len));
    }
  }

  void flush() { count("fsync", ::fsync(direct_.get())); }

  void zero() {
    const Range r = range();
    uint64_t at[2] = {static_cast<uint64_t>(r.offset), r.bytes};
    switch (random_() % 4) {
      case 0:
        count("discard", ::ioctl(direct_.get(), BLKDISCARD, at));
        break;
      case 1:
        count("zeroout", ::ioctl(direct_.get(), BLKZEROOUT, at));
        break;
      default:
        count("fallocate",
              ::fallocate(
                  direct_.get(),
                  FALLOC_FL_KEEP_SIZE | (random_() % 2 ? FALLOC_FL_PUNCH_HOLE
                                                       : FALLOC_FL_ZERO_RANGE),
                  r.offset, static_cast<off_t>(r.bytes)));
    }
  }

  // Many at once, in one submission.
  void ring() {
    const int fd = direct_.get();
    auto ring = Ring::for_queue(kDepth, {&fd, 1});
    if (!ring) return seen_.count("io_uring", ring.error().code());
    std::array<std::optional<Range>, kDepth> reads;
    for (unsigned n = 0; n < kDepth; n++) {
      const Range r = range();
      io_uring_sqe* sqe = io_uring_get_sqe(ring->get());
      if (random_() % 2) {
        io_uring_prep_read(sqe, 0, unread(r.bytes, n), r.bytes,
                           static_cast<uint64_t>(r.offset));
        reads[n] = r;
      } else {
        io_uring_prep_write(sqe, 0, written(r.bytes, n), r.bytes,
                            static_cast<uint64_t>(r.offset));
      }
      sqe->flags |= IOSQE_FIXED_FILE;
      sqe->user_data = n;
    }
    for (unsigned n = 0; n < kDepth; n++) {
      io_uring_cqe* cqe = nullptr;
      if (io_uring_submit_and_wait(ring->get(), 1) < 0 ||
          io_uring_peek_cqe(ring->get(), &cqe))
        return;
      const auto which = cqe->user_data;
      seen_.count("io_uring", errno_of(cqe->res));
      if (reads[which])
        check("io_uring read", buffer(which), std::max(0, cqe->res),
              *reads[which]);
      io_uring_cqe_seen(ring->get(), cqe);
    }
  }

  const Options& options_;
  Seen& seen_;
  std::mt19937_64 random_;
  bool many_;  // of its I/O is under way at once; else one after the other, of
               // all kinds
  UniqueFd direct_, buffered_;
  MmapRegion memory_;
};

Result<bool> run(const Options& options) {
  Seen seen;
  std::vector<Submitter> submitters;
  for (unsigned i = 0; i < options.threads; i++)
    submitters.push_back(TRY(Submitter::create(options, seen, i)));
  std::atomic<bool> stop = false;
  {
    std::vector<std::jthread> threads;
    for (auto& submitter : submitters)
      threads.emplace_back([&submitter, &stop] { submitter.run(stop); });
    pollfd in{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    while (!seen.found_foreign() && ::poll(&in, 1, 100) == 0) {
    }
    stop = true;
  }
  nlohmann::json result = {{"calls", seen.calls}, {"errors", seen.errors}};
  if (seen.foreign) result["foreign"] = *seen.foreign;
  std::printf("%s\n", result.dump().c_str());
  return !seen.foreign;
}

}  // namespace
}  // namespace ublk

int main(int argc, char** argv) {
  ublk::Options options;
  CLI::App app("random I/O on a device, until stdin is closed");
  app.add_option("--size", options.size_bytes, "bytes");
  app.add_option("--seed", options.seed);
  app.add_option("--threads", options.threads);
  app.add_option("path", options.path)->required();
  CLI11_PARSE(app, argc, argv);
  const auto done = ublk::run(options);
  if (!done) {
    std::fprintf(stderr, "fuzz-io: %s\n", done.error().line().c_str());
    return 2;
  }
  return *done ? 0 : 1;
}
