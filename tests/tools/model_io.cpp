// SPDX-License-Identifier: MIT
//
// model-io SIZE BLOCK SEED: random I/O on a block device, and on a plain copy
// of it in memory, which every read is compared with. SIZE is the device's, in
// bytes; BLOCK the unit in which a discard frees: what is less keeps its data.
// Commands are lines of standard input, each answered by a line: "ok", or what
// differs, which is the end.
//
//   open PATH         the device, from now on; what is there is not changed
//   look PATH         the same, only for reading
//   expect PATH       a file has what the device has to have, zeroes behind it
//   run N THREADS     N operations by each of so many threads
//   verify            reads all of it
//   keep NAME         what the device has to have, for later
//   back NAME         it has to have that again
//   log PATH          writes there what has changed the device since the last
//                     time, a line each: when it began and when it was done
//                     (CLOCK_MONOTONIC, ns), offset and length in bytes
//   close
//
// Threads never write to the same sector, but they share blocks: of N threads
// each owns every Nth of stripes that are not multiples of a block.

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kMostBytes = 1 << 20;
// Less, equal and more than blocks; sectors.
constexpr uint64_t kStripes[] = {1, 3, 8, 13, 81, 128, 1031};

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Free>;
Buffer make_buffer() {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(4096, kMostBytes)));
}

class Model {
 public:
  Model(uint64_t size, uint64_t block, uint64_t seed)
      : size_(size), block_(block), random_(seed), reference_(size) {}

  void open(const std::string& path, int mode) {
    fd_ = ::open(path.c_str(), mode | O_DIRECT | O_CLOEXEC);
    if (fd_ < 0) fail("open " + path);
  }
  void close() {
    ::close(fd_);
    fd_ = -1;
  }
  void expect(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::fill(reference_.begin(), reference_.end(), std::byte{});
    file.read(reinterpret_cast<char*>(reference_.data()),
              static_cast<std::streamsize>(size_));
  }
  void run(unsigned count, unsigned nr_threads) {
    const uint64_t stripe = kStripes[random_() % std::size(kStripes)] * kSector;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < nr_threads; i++)
      threads.emplace_back(
          [this, i, count, nr_threads, stripe, seed = random_()] {
            work(count, Share{i, nr_threads, stripe}, seed);
          });
    for (auto& thread : threads) thread.join();
  }
  void keep(const std::string& name) { kept_[name] = reference_; }
  void back(const std::string& name) { reference_ = kept_.at(name); }
  void verify() {
    const Buffer buffer = make_buffer();
    for (uint64_t at = 0; at < size_; at += kMostBytes)
      read(buffer.get(), at, std::min(kMostBytes, size_ - at), "verify");
  }
  void log(const std::string& path) {
    std::ofstream file(path);
    for (const Change& c : changes_)
      file << c.began << ' ' << c.done << ' ' << c.at << ' ' << c.bytes << '\n';
    changes_.clear();
    if (!file.flush()) fail("log");
  }
  bool failed() const { return failed_; }

 private:
  struct Change {
    int64_t began;
    int64_t done;
    uint64_t at;
    uint64_t bytes;
  };
  static int64_t now() {
    return std::chrono::steady_clock::now().time_since_epoch() /
           std::chrono::nanoseconds(1);
  }
  void note(int64_t began, uint64_t at, uint64_t bytes) {
    const std::lock_guard held(mutex_);
    changes_.push_back({began, now(), at, bytes});
  }
  struct Share {
    unsigned index;
    unsigned of;
    uint64_t stripe;  // bytes
  };
  using Random = std::mt19937_64;

  void fail(const std::string& what) {
    const std::lock_guard held(mutex_);
    if (!failed_.exchange(true))
      std::cout << what << ": " << std::strerror(errno) << std::endl;
  }

  // A range of one of the share's stripes.
  std::pair<uint64_t, uint64_t> choose(const Share& share, Random& random) {
    const uint64_t turn = share.of == 1 ? size_ : share.stripe * share.of;
    const uint64_t turns = (size_ + turn - 1) / turn;
    const uint64_t from = random() % turns * turn +
                          (share.of == 1 ? 0 : share.index * share.stripe);
    if (from >= size_) return {0, 0};
    const uint64_t to =
        std::min(size_, from + (share.of == 1 ? size_ : share.stripe));
    const uint64_t sectors = (to - from) / kSector;
    uint64_t at = random() % sectors;
    // Mostly small.
    const uint64_t most = random() % 4 ? 16 : kMostBytes / kSector;
    uint64_t count = 1 + random() % std::min(most, sectors - at);
    // Often whole blocks.
    const uint64_t unit = block_ / kSector, first = from / kSector;
    if (random() % 3 == 0 && sectors > 2 * unit) {
      at = (first + at + unit - 1) / unit * unit - first;
      if (at >= sectors) return {0, 0};
      count = std::max<uint64_t>(count / unit, 1) * unit;
      count = std::min(count, sectors - at);
    }
    return {from + at * kSector, count * kSector};
  }

  void work(unsigned count, const Share& share, uint64_t seed) {
    Random random(seed);
    const Buffer buffer = make_buffer();
    for (unsigned i = 0; i < count && !failed_; i++) {
      const auto [at, bytes] = choose(share, random);
      const auto dice = random() % 100;
      if (dice < 4) {
        if (::fsync(fd_)) fail("fsync");
      } else if (!bytes) {
        continue;
      } else if (dice < 40) {
        read(buffer.get(), at, bytes, "read");
      } else {
        const int64_t began = now();
        if (dice < 84)
          write(buffer.get(), at, bytes, random, dice < 48 ? RWF_DSYNC : 0);
        else if (dice < 92)
          discard(at, bytes);
        else
          zero(at, bytes, dice);
        note(began, at, bytes);
      }
    }
  }

  void read(std::byte* buffer, uint64_t at, uint64_t bytes, const char* by) {
    std::memset(buffer, 0xa5, bytes);
    const ssize_t done = ::pread(fd_, buffer, bytes, static_cast<off_t>(at));
    if (done != static_cast<ssize_t>(bytes))
      return fail(std::string(by) + " of " + std::to_string(bytes) + " at " +
                  std::to_string(at) + " gave " + std::to_string(done));
    const std::byte* want = reference_.data() + at;
    if (std::memcmp(buffer, want, bytes) == 0) return;
    const auto differs = static_cast<uint64_t>(
        std::mismatch(buffer, buffer + bytes, want).first - buffer);
    uint64_t has = 0, wants = 0;
    std::memcpy(&has, buffer + differs / 8 * 8, 8);
    std::memcpy(&wants, want + differs / 8 * 8, 8);
    std::ostringstream text;
    text << std::hex << by << " of 0x" << bytes << " at 0x" << at
         << ": differs at 0x" << at + differs << ": has " << has << ", not "
         << wants;
    errno = 0;
    fail(text.str());
  }

  void write(std::byte* buffer, uint64_t at, uint64_t bytes, Random& random,
             int flags) {
    const uint64_t first = random();
    auto* words = reinterpret_cast<uint64_t*>(buffer);
    for (uint64_t i = 0; i < bytes / 8; i++)
      words[i] = first ^ (at + i * 8) * 0x9e3779b97f4a7c15;
    const iovec vec{buffer, bytes};
    const ssize_t done =
        ::pwritev2(fd_, &vec, 1, static_cast<off_t>(at), flags);
    if (done != static_cast<ssize_t>(bytes))
      return fail("write of " + std::to_string(bytes) + " at " +
                  std::to_string(at) + " gave " + std::to_string(done));
    std::memcpy(reference_.data() + at, buffer, bytes);
  }

  void discard(uint64_t at, uint64_t bytes) {
    uint64_t range[2] = {at, bytes};
    if (::ioctl(fd_, BLKDISCARD, range)) return fail("discard");
    const uint64_t first = (at + block_ - 1) / block_ * block_;
    const uint64_t end =
        at + bytes == size_ ? size_ : (at + bytes) / block_ * block_;
    if (first < end) std::memset(reference_.data() + first, 0, end - first);
  }

  void zero(uint64_t at, uint64_t bytes, uint64_t dice) {
    uint64_t range[2] = {at, bytes};
    const int mode = FALLOC_FL_KEEP_SIZE |
                     (dice & 1 ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    if (dice & 2 ? ::ioctl(fd_, BLKZEROOUT, range)
                 : ::fallocate(fd_, mode, static_cast<off_t>(at),
                               static_cast<off_t>(bytes)))
      return fail("zeroes");
    std::memset(reference_.data() + at, 0, bytes);
  }

  std::map<std::string, std::vector<std::byte>> kept_;
  const uint64_t size_;
  const uint64_t block_;
  Random random_;
  std::vector<std::byte> reference_;
  int fd_ = -1;
  std::mutex mutex_;
  std::vector<Change> changes_;
  std::atomic<bool> failed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "use: model-io SIZE BLOCK SEED\n";
    return 2;
  }
  Model model(std::stoull(argv[1]), std::stoull(argv[2]), std::stoull(argv[3]));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, path;
    words >> command;
    if (command == "open" && words >> path)
      model.open(path, O_RDWR);
    else if (command == "look" && words >> path)
      model.open(path, O_RDONLY);
    else if (command == "expect" && words >> path)
      model.expect(path);
    else if (unsigned count, threads;
             command == "run" && words >> count >> threads)
      model.run(count, threads);
    else if (std::string name; command == "keep" && words >> name)
      model.keep(name);
    else if (command == "back" && words >> name)
      model.back(name);
    else if (command == "verify")
      model.verify();
    else if (command == "log" && words >> path)
      model.log(path);
    else if (command == "close")
      model.close();
    else
      return 2;
    if (model.failed()) return 1;
    std::cout << "ok" << std::endl;
  }
  return 0;
}
