// SPDX-License-Identifier: MIT
#include "server/clone.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <system_error>
#include <thread>
#include <utility>

#include "layer/chain.h"
#include "server/drains.h"
#include "server/flatten.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;

std::atomic_ref<uint32_t> at(uint32_t* word) { return std::atomic_ref(*word); }

uint64_t now(__u64& word) { return std::atomic_ref(word).load(); }

}  // namespace

void wake_all(uint32_t* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

std::optional<FutexWait> BusyBlocks::take(Hold& hold, uint64_t first,
                                          uint64_t count) {
  const uint64_t last = first + count - 1;
  const std::lock_guard locked(mutex_);
  for (Hold* other = held_; other; other = other->next_) {
    if (first > other->last_ || other->first_ > last) continue;
    other->waited_for_ = true;
    uint32_t* word = &words_[other->first_ % kWords];
    return FutexWait{word, at(word).load()};
  }
  hold.of_ = this;
  hold.first_ = first;
  hold.last_ = last;
  hold.waited_for_ = false;
  hold.next_ = held_;
  hold.here_ = &held_;
  if (held_) held_->here_ = &hold.next_;
  held_ = &hold;
  tell(hold, true);
  return std::nullopt;
}

void BusyBlocks::share(ublk_bpf_clone* shared) {
  shared_ = shared;
  // Of a server that ended in the middle of something.
  std::atomic_ref(shared->busy).store(0);
  std::atomic_ref(shared->flags).fetch_and(~UBLK_BPF_CLONE_F_FROZEN);
}

void BusyBlocks::tell(const Hold& hold, bool busy) {
  if (!shared_) return;
  uint64_t busy_now = 0;
  const uint64_t last = std::min(hold.last_, hold.first_ + 63);
  for (uint64_t block = hold.first_; block <= last; block++)
    nr_busy_[block % 64] += busy ? 1U : -1U;
  for (size_t bit = 0; bit < 64; bit++)
    if (nr_busy_[bit]) busy_now |= uint64_t{1} << bit;
  std::atomic_ref(shared_->busy).store(busy_now);
}

void BusyBlocks::Hold::release() {
  BusyBlocks* of = std::exchange(of_, nullptr);
  if (!of) return;
  uint32_t* word = &of->words_[first_ % kWords];
  bool wake = false;
  {
    const std::lock_guard locked(of->mutex_);
    *here_ = next_;
    if (next_) next_->here_ = here_;
    of->tell(*this, false);
    wake = waited_for_;
    if (wake) at(word)++;
  }
  if (wake) wake_all(word);
}

SaveRounds::Part SaveRounds::join() {
  const std::lock_guard locked(mutex_);
  Part part;
  part.of_ = this;
  // The one that runs may have begun before what is to be saved was there.
  std::shared_ptr<Round>& mine = running_ ? next_ : running_;
  part.leads_ = !mine;
  if (part.leads_) {
    auto made = std::make_shared<Round>();
    if (running_) part.before_ = running_;
    mine = std::move(made);
  }
  part.mine_ = mine;
  return part;
}

std::optional<FutexWait> SaveRounds::Part::waits_for() const {
  const auto& round = leads_ ? before_ : mine_;
  if (!round || at(&round->ended).load()) return std::nullopt;
  return FutexWait{&round->ended, 0};
}

void SaveRounds::Part::end(int result) {
  {
    const std::lock_guard locked(of_->mutex_);
    if (of_->running_ == mine_)
      of_->running_ = std::exchange(of_->next_, nullptr);
    else
      of_->next_ = nullptr;
    mine_->result = result;
    at(&mine_->ended).store(1);
  }
  wake_all(&mine_->ended);
}

SaveRounds::Part::~Part() {
  if (leads_ && mine_ && !at(&mine_->ended).load()) end(negative(EIO));
}

bool SaveRounds::idle(const BlockMap& map) {
  const std::lock_guard locked(mutex_);
  return !running_ && program_is_saved() && !map.unsaved();
}

// Whether all bits that the program has set are saved, and it sets none now;
// and it has been told that there is nothing to be saved.
bool SaveRounds::program_is_saved() const {
  return !shared_ ||
         (now(shared_->begun) == now(shared_->saved) && !now(shared_->unsaved));
}

void SaveRounds::share(ublk_bpf_clone* shared) {
  shared_ = shared;
  // What was set before is not known to be saved.
  std::atomic_ref(shared->unsaved).store(1);
}

void SaveRounds::set(BlockMap& map, uint64_t first, uint64_t count) {
  const std::lock_guard locked(mutex_);
  nr_set_++;
  // First: who sees the bits has the program pass his FLUSH.
  if (shared_) std::atomic_ref(shared_->unsaved).store(1);
  map.set(first, count);
}

Result<Layer::Save> SaveRounds::begin_save(Layer& layer) {
  const std::lock_guard locked(mutex_);
  saving_set_ = nr_set_;
  // A bit that the program has set may not have its mark yet. It takes no time:
  // wait for a moment at which it sets none.
  if (shared_)
    for (;;) {
      const uint64_t done = now(shared_->done);
      saving_begun_ = now(shared_->begun);
      if (saving_begun_ == done) break;
      std::this_thread::yield();
    }
  return layer.begin_save();
}

void SaveRounds::saved() {
  const std::lock_guard locked(mutex_);
  if (!shared_) return;
  std::atomic_ref(shared_->saved).store(saving_begun_);
  if (saving_set_ == nr_set_) std::atomic_ref(shared_->unsaved).store(0);
}

Result<void> take_patiently(Layer& layer, const Layer::OpenOptions& options) {
  const auto until = std::chrono::steady_clock::now() + kLockWait;
  for (;;) {
    auto taken = layer.take(options);
    if (taken || taken.error().code() != EBUSY ||
        std::chrono::steady_clock::now() > until)
      return taken;
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

Clone::Clone(LayerChain chain, const Options& options)
    : chain_(std::move(chain)),
      read_only_(options.read_only),
      taken_(options.read_only) {}

Clone::~Clone() = default;

Result<void> Clone::serve_with(ublk_bpf_clone* shared,
                               std::function<Result<void>()> drain) {
  try {
    drains_ = std::make_unique<Drains>(std::move(drain));
  } catch (const std::system_error& e) {
    return fail_sys(e.code().value(), "a thread for drains");
  }
  busy_.share(shared);
  saves_.share(shared);
  return {};
}

Result<std::shared_ptr<Clone>> Clone::open(const std::string& top,
                                           const Options& options) {
  LayerChain chain = TRY(LayerChain::open(
      top,
      {.buffered = options.buffered,
       .take_later = !options.read_only,
       .take_base_later = options.base_later,
       .try_fallocate = options.is_new},
      options.read_only ? Layer::Use::below : Layer::Use::top));
  return std::shared_ptr<Clone>(new Clone(std::move(chain), options));
}

Result<void> Clone::take(const MakeMemory& make, bool adopt) {
  if (taken_) return {};
  Layer::OpenOptions options{.adopt = adopt};
  if (make)
    options.memory = [&](uint64_t words) -> Result<std::span<uint64_t>> {
      memory_ = TRY(make(header(), words));
      return memory_.words;
    };
  TRY(take_patiently(top(), options));
  if (memory_.note) memory_.note(false);
  taken_ = true;
  return {};
}

Result<void> Clone::flatten(uint64_t bytes_per_second,
                            std::function<void(const FlattenProgress&)> tell) {
  flatten_ = TRY(Flatten::start(
      *this, {.bytes_per_second = bytes_per_second, .tell = std::move(tell)}));
  return {};
}

Result<void> Clone::close() {
  flatten_.reset();
  if (!taken_ || read_only_) return {};
  TRY(top().save());
  if (memory_.note) memory_.note(true);
  taken_ = false;
  return {};
}

Result<void> Clone::seal() {
  TRY(top().seal());
  if (memory_.note) memory_.note(true);
  taken_ = false;
  return {};
}

Result<void> Clone::grow(uint64_t size_bytes) {
  TRY(top().save());
  // A map of the old size is nobody's as soon as the header has the new one.
  if (memory_.note) memory_.note(true);
  auto grown = top().grow(size_bytes);
  if (!grown && memory_.note) memory_.note(false);
  if (grown) taken_ = false;
  return grown;
}

std::vector<int> Clone::ring_files() const {
  std::vector<int> files = {top().metadata_fd()};
  for (const Layer& layer : chain_.layers)
    files.push_back(layer.file().fd.get());
  if (chain_.base) files.push_back(chain_.base->fd.get());
  return files;
}

Result<void> Clone::check_base() const {
  if (!chain_.base) return {};
  const Layer& lowest = chain_.layers.back();
  return check_base_file(lowest.file().path, lowest.header().base,
                         *chain_.base);
}

const Backing* Clone::file_of(const Extent& extent) const {
  if (extent.source == Extent::kZeroes) return nullptr;
  const auto source = static_cast<size_t>(extent.source);
  return source < chain_.layers.size() ? &chain_.layers[source].file()
                                       : &*chain_.base;
}

Clone::Extent Clone::find(uint64_t from, uint64_t most, size_t layer) const {
  for (size_t i = layer; i < chain_.layers.size(); i++) {
    const Layer& one = chain_.layers[i];
    // What is beyond it is not looked for below it.
    if (from >= one.header().size_bytes) return {.bytes = most};
    most = std::min(most, one.header().size_bytes - from);
    const Run run = run_of(one, from, most);
    most = run.bytes;
    if (run.present)
      return {static_cast<int>(i), one.data_offset() + from, most};
  }
  if (!chain_.base || from >= chain_.base->size_bytes) return {.bytes = most};
  const uint64_t align = chain_.base->offset_align;
  const uint64_t rest = chain_.base->size_bytes - from;
  return {static_cast<int>(chain_.layers.size()), from,
          std::min(most, (rest + align - 1) / align * align)};
}

// A block that is made present meanwhile is one or the other, but those behind
// it are not taken for what it was.
Clone::Run Clone::run_of(const Layer& layer, uint64_t from, uint64_t most) {
  const uint64_t block = layer.header().block_bytes;
  const BlockMap& map = layer.blocks();
  Run run{.first = from / block};
  const uint64_t count = (from + most - 1) / block - run.first + 1;
  do {
    run.present = map.present(run.first);
    run.count = map.run(run.first, count);
  } while (run.present != map.present(run.first));
  run.bytes = std::min(most, (run.first + run.count) * block - from);
  return run;
}

}  // namespace ublk
