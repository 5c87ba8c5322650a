// SPDX-License-Identifier: MIT
#include "server/flatten.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <new>
#include <system_error>
#include <utility>

#include "server/drains.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr uint64_t kPiece = 1 << 20;  // at least a block
constexpr size_t kAlign = 4096;
constexpr auto kTellPeriod = 1s;

// Of somebody who may hold up his thread.
void wait_for(const FutexWait& wait) {
  ::syscall(SYS_futex, wait.word, FUTEX_WAIT_PRIVATE, wait.value, nullptr,
            nullptr, 0);
}

// Fewer than `bytes` only at the file's end.
Result<uint64_t> read_file(const Backing& file, std::byte* to, uint64_t bytes,
                           uint64_t offset) {
  uint64_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(file.fd.get(), to + done, bytes - done,
                                static_cast<off_t>(offset + done));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    // The rest of a file that ends within a sector is not aligned any more.
    if (got < 0 && errno == EINVAL && done) break;
    if (got < 0)
      return fail_sys(errno, "{}: read at offset {}", file.path, offset + done);
    if (got == 0) break;
    done += static_cast<uint64_t>(got);
  }
  // What it has lost since it was opened is an error to readers, not zeroes.
  if (done < bytes && offset + done < file.size_bytes)
    return fail(EIO, "{}: is cut short: it ends at offset {}", file.path,
                offset + done);
  return done;
}

Result<void> write_file(const Backing& file, const std::byte* from,
                        uint64_t bytes, uint64_t offset) {
  uint64_t done = 0;
  while (done < bytes) {
    const ssize_t put = ::pwrite(file.fd.get(), from + done, bytes - done,
                                 static_cast<off_t>(offset + done));
    if (put < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (put < 0)
      return fail_sys(errno, "{}: write at offset {}", file.path,
                      offset + done);
    done += static_cast<uint64_t>(put);
  }
  return {};
}

// Whether these bytes of the file are known to be a hole.
bool is_hole(const Backing& file, uint64_t offset, uint64_t bytes) {
  const off_t data =
      ::lseek(file.fd.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) return errno == ENXIO;
  return static_cast<uint64_t>(data) >= offset + bytes;
}

bool are_zeroes(const std::byte* memory, uint64_t bytes) {
  return memory[0] == std::byte{} &&
         ::memcmp(memory, memory + 1, bytes - 1) == 0;
}

}  // namespace

void Flatten::Free::operator()(std::byte* memory) const { ::free(memory); }

Flatten::Flatten(Clone& clone, Options options)
    : clone_(clone), options_(std::move(options)) {}

Flatten::~Flatten() = default;

Result<std::unique_ptr<Flatten>> Flatten::start(Clone& clone, Options options) {
  const uint64_t piece = std::max<uint64_t>(kPiece, clone.header().block_bytes);
  std::unique_ptr<Flatten> flatten(new Flatten(clone, std::move(options)));
  flatten->memory_.reset(
      static_cast<std::byte*>(::aligned_alloc(kAlign, piece)));
  if (!flatten->memory_) return fail_sys(ENOMEM, "memory to flatten with");
  Flatten* self = flatten.get();
  try {
    self->thread_ =
        std::jthread([self](const std::stop_token& stop) { self->run(stop); });
  } catch (const std::system_error& e) {
    return fail_sys(e.code().value(), "a thread to flatten with");
  }
  return flatten;
}

void Flatten::run(const std::stop_token& stop) {
  begun_ = told_ = steady_clock::now();
  auto done = bring_all(stop);
  if (done && !stop.stop_requested()) done = save();
  if (done && !stop.stop_requested()) done = clone_.check_base();
  if (done && !stop.stop_requested()) {
    done = clone_.top().make_independent();
    progress_.done = done.has_value();
  }
  if (!done) progress_.error = std::move(done).error();
  tell(stop, true);
}

void Flatten::tell(const std::stop_token& stop, bool now) {
  // What stops it goes on with it, or gives it up.
  if (stop.stop_requested() && !progress_.done && !progress_.error) return;
  if (!now && steady_clock::now() - told_ < kTellPeriod) return;
  told_ = steady_clock::now();
  if (options_.tell) options_.tell(progress_);
}

Result<void> Flatten::bring_all(const std::stop_token& stop) {
  const uint64_t size = clone_.header().size_bytes;
  std::mutex mutex;
  std::condition_variable_any stopped;
  for (uint64_t at = 0; at < size && !stop.stop_requested();) {
    at = TRY(bring(stop, at));
    progress_.looked_at_bytes = at;
    tell(stop, false);
    if (!options_.bytes_per_second) continue;
    const std::chrono::duration<double> due(
        static_cast<double>(progress_.copied_bytes) /
        static_cast<double>(options_.bytes_per_second));
    std::unique_lock locked(mutex);
    stopped.wait_until(
        locked, stop,
        begun_ + std::chrono::duration_cast<steady_clock::duration>(due),
        [] { return false; });
  }
  return {};
}

// The piece that begins there, or a part of it. Gives where the next one does.
Result<uint64_t> Flatten::bring(const std::stop_token& stop, uint64_t from) {
  const uint64_t size = clone_.header().size_bytes;
  const uint64_t block = clone_.header().block_bytes;
  const uint64_t most = std::min(std::max(kPiece, block), size - from);
  const Clone::Run run = clone_.run(from, most);
  if (run.present) return from + run.bytes;
  uint64_t end = from;
  // Whole blocks, of which none has anything below it.
  while (end < from + run.bytes) {
    const Clone::Extent extent = clone_.find(end, from + run.bytes - end, 1);
    const Backing* file = clone_.file_of(extent);
    if (file && !is_hole(*file, extent.offset, extent.bytes)) break;
    end += extent.bytes;
  }
  if (end == from + run.bytes) return end;
  BusyBlocks::Hold held;
  if (!TRY(hold(held, run)) || stop.stop_requested()) return from;
  TRY(read_below(from, run.bytes));
  TRY(write_what_is_not_zeroes(run, from));
  return from + run.bytes;
}

// Whether they are absent still.
Result<bool> Flatten::hold(BusyBlocks::Hold& hold, const Clone::Run& run) {
  while (const auto wait = clone_.busy().take(hold, run.first, run.count))
    wait_for(*wait);
  if (!clone_.are_absent(run)) return false;
  if (!clone_.drains()) return true;
  const Drains::Part part = clone_.drains()->join();
  while (const auto wait = part.waits_for()) wait_for(*wait);
  if (part.result() < 0)
    return fail_sys(errno_of(part.result()), "waiting for the program");
  return clone_.are_absent(run);
}

Result<void> Flatten::read_below(uint64_t at, uint64_t bytes) {
  uint64_t pos = 0;
  while (pos < bytes) {
    const Clone::Extent extent = clone_.find(at + pos, bytes - pos, 1);
    std::byte* to = memory_.get() + pos;
    const Backing* file = clone_.file_of(extent);
    const uint64_t got =
        file ? TRY(read_file(*file, to, extent.bytes, extent.offset)) : 0;
    ::memset(to + got, 0, extent.bytes - got);
    pos += extent.bytes;
  }
  return {};
}

Result<void> Flatten::write_what_is_not_zeroes(const Clone::Run& run,
                                               uint64_t at) {
  const uint64_t block = clone_.header().block_bytes;
  const auto bytes_of = [&](uint64_t first, uint64_t count) {
    return std::min(run.bytes, (first + count) * block) - first * block;
  };
  for (uint64_t first = 0; first < run.count;) {
    const std::byte* from = memory_.get() + first * block;
    uint64_t count = 0;
    while (first + count < run.count &&
           !are_zeroes(from + count * block, bytes_of(first + count, 1)))
      count++;
    if (count) {
      const uint64_t bytes = bytes_of(first, count);
      TRY(write_file(clone_.top().file(), from, bytes,
                     clone_.top().data_offset() + at + first * block));
      clone_.saves().set(clone_.top().blocks(), run.first + first, count);
      progress_.copied_bytes += bytes;
    }
    first += count ? count : 1;
  }
  return {};
}

// All blocks that are present now are so on the disk, too.
Result<void> Flatten::save() {
  SaveRounds::Part part = clone_.saves().join();
  while (const auto wait = part.waits_for()) wait_for(*wait);
  if (part.leads()) {
    auto saved = [&]() -> Result<void> {
      Layer::Save save = TRY(clone_.saves().begin_save(clone_.top()));
      TRY(clone_.top().write(save));
      clone_.top().end_save(std::move(save));
      clone_.saves().saved();
      return {};
    }();
    part.end(saved ? 0 : negative(saved.error().code()));
    return saved;
  }
  if (part.result() < 0)
    return fail_sys(errno_of(part.result()), "saving the map");
  return {};
}

}  // namespace ublk
