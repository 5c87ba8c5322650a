// SPDX-License-Identifier: MIT
#pragma once

#include <ublk_bpf_maps.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "layer/layer.h"
#include "sys/error.h"
#include "sys/mmap_region.h"

namespace ublk {

// Something that a request waits for without holding up its queue: until the
// word has another value (IORING_OP_FUTEX_WAIT).
struct FutexWait {
  uint32_t* word;
  uint32_t value;
};
// Wakes all that wait for a change of the word, which has changed.
void wake_all(uint32_t* word);

// Blocks that requests are about to make present. Two requests have no block
// in common. Shared by the queues.
class BusyBlocks {
 public:
  // Of one request: a range, until it is destroyed.
  class Hold {
   public:
    Hold() = default;
    Hold(const Hold&) = delete;
    ~Hold() { release(); }
    void release();

   private:
    friend BusyBlocks;
    BusyBlocks* of_ = nullptr;
    Hold* next_ = nullptr;
    Hold** here_ = nullptr;
    uint64_t first_ = 0;
    uint64_t last_ = 0;
    bool waited_for_ = false;
  };
  // Nothing: `hold`, which was empty, has them. Else somebody has one of them:
  // what to wait for before it is tried again. A request that has blocks must
  // not wait for more.
  std::optional<FutexWait> take(Hold& hold, uint64_t first, uint64_t count);
  // Before the queues run: the program leaves these blocks alone, too, once
  // what it has planned already is done. Borrowed.
  void share(ublk_bpf_clone* shared);

 private:
  static constexpr size_t kWords = 64;
  void tell(const Hold& hold, bool busy);

  std::mutex mutex_;
  Hold* held_ = nullptr;
  uint32_t words_[kWords] = {};
  ublk_bpf_clone* shared_ = nullptr;
  uint32_t nr_busy_[64] = {};  // holds with a block of this number modulo 64
};

// Which save a FLUSH is made durable by. One save runs at a time; those that
// want one meanwhile share the next. Shared by the queues.
class SaveRounds {
 public:
  struct Round {
    uint32_t ended = 0;  // a futex
    int result = 0;      // valid once it has ended
  };
  // A request's part in a round.
  class Part {
   public:
    Part() = default;
    Part(Part&& other) = default;
    // A leader that does not come to its end fails those that follow it.
    ~Part();
    // Waits for this before anything else, until it is nothing.
    std::optional<FutexWait> waits_for() const;
    // Does the save; the others have its result.
    bool leads() const { return leads_; }
    int result() const { return mine_->result; }
    // Of the leader: for all of them.
    void end(int result);

   private:
    friend SaveRounds;
    SaveRounds* of_ = nullptr;
    std::shared_ptr<Round> mine_;
    std::shared_ptr<Round> before_;  // of the leader: that runs still
    bool leads_ = false;
  };

  // A part in a round that begins after this call.
  Part join();
  // Whether no round is under way and the map has nothing for one.
  bool idle(const BlockMap& map);
  // Makes blocks present. Who has seen that they are also finds them unsaved,
  // or saved, in a round that he joins afterwards, or by idle().
  void set(BlockMap& map, uint64_t first, uint64_t count);
  // Of the leader. EBUSY: somebody saves who does not know of the rounds.
  Result<Layer::Save> begin_save(Layer& layer);
  // Of the leader: what that took is durable.
  void saved();
  // Before the queues run: a program sets bits, too, and is told whether a
  // FLUSH is more than an fsync. Borrowed.
  void share(ublk_bpf_clone* shared);

 private:
  bool program_is_saved() const;

  std::mutex mutex_;
  std::shared_ptr<Round> running_, next_;
  ublk_bpf_clone* shared_ = nullptr;
  uint64_t nr_set_ = 0;        // how often set() was called
  uint64_t saving_set_ = 0;    // of these, what the round under way has
  uint64_t saving_begun_ = 0;  // and of the program's
};

// Layer::take(), for some seconds while its lock is an ended server's, whose
// files the kernel closes later.
Result<void> take_patiently(Layer& layer, const Layer::OpenOptions& options);

class Drains;
class Flatten;

// Of bringing all that is below a clone's top layer up to it.
struct FlattenProgress {
  uint64_t looked_at_bytes = 0;  // of the disk
  uint64_t copied_bytes = 0;
  bool done = false;             // the layer is independent
  std::optional<Error> error{};  // why it ended before
};

// A clone's layers, and what its queues share about them. Destruction closes
// the layers and saves nothing: close() does.
class Clone {
 public:
  struct Options {
    bool read_only = false;
    bool buffered = false;
    // The layer below the top is another server's top still: it is sealed
    // there, then taken by take_base(), before take().
    bool base_later = false;
    // Of a device that is to announce what its layer's file can do.
    bool is_new = false;
  };
  ~Clone();
  // Opens the layers. The top is not locked, and nothing can be read of it,
  // until take(): it may still be another server's. Errors as of
  // LayerChain::open().
  static Result<std::shared_ptr<Clone>> open(const std::string& top,
                                             const Options& options);

  // Memory for the top's map, of so many words (Layer::OpenOptions), which the
  // clone owns from then on.
  struct Memory {
    MmapRegion region{};
    MmapRegion shared{};  // with a program
    std::span<uint64_t> words{};
    // Called with false before it changes, with true when the disk has it all.
    std::function<void(bool saved)> note{};
  };
  using MakeMemory =
      std::function<Result<Memory>(const LayerHeader& header, uint64_t words)>;
  // Before the queues run: locks the top and reads its map. EBUSY: it is
  // somebody else's. Without `make` the memory is this process's own. If
  // `adopt` the memory has what a server before this one has left there, which
  // the disk may lack. Of a read-only clone there is nothing to do.
  Result<void> take(const MakeMemory& make = {}, bool adopt = false);
  // When the queues have ended: saves the map, and lets go of the layers.
  Result<void> close();

  // For another clone that is on this one's top: what the map has is on the
  // disk; nothing must change it any more, and its queues do not run.
  Result<void> save() { return top().save(); }
  // After that: the top is a layer below for good, and this clone is over.
  Result<void> seal();
  Result<void> check_grow(uint64_t size_bytes) const {
    return top().check_grow(size_bytes);
  }
  // Makes its disk larger, for another clone that opens the layer again and has
  // a larger map; this one is over, unless it fails. Under what save() needs.
  Result<void> grow(uint64_t size_bytes);
  // Of one with `base_later`.
  Result<void> take_base() { return chain_.take_base(); }
  // Its top has got another name.
  void set_name(const std::string& top) { chain_.layers.front().set_name(top); }

  const LayerHeader& header() const { return chain_.layers.front().header(); }
  const LayerChain& chain() const { return chain_; }
  Layer& top() { return chain_.layers.front(); }
  const Layer& top() const { return chain_.layers.front(); }
  bool read_only() const { return read_only_; }

  // Of the queue's ring: the top's for metadata, then the layers' from the top
  // down, then the base's.
  std::vector<int> ring_files() const;

  // Bytes of the disk that are in one piece somewhere.
  struct Extent {
    static constexpr int kZeroes = -1;
    int source = kZeroes;  // index of the layer; one past them: the base
    uint64_t offset = 0;   // bytes, of that file
    uint64_t bytes = 0;
  };
  // Where the disk's bytes from `from` on are, at most `most` of them, in the
  // layers from `layer` down. Whole units of direct I/O: of a base there may be
  // less, and zeroes follow.
  Extent find(uint64_t from, uint64_t most, size_t layer = 0) const;
  // Blocks of the top that are all present or all absent, from that of byte
  // `from` on, and the bytes of them from there, at most `most`.
  struct Run {
    bool present = false;
    uint64_t first = 0;
    uint64_t count = 0;
    uint64_t bytes = 0;
  };
  Run run(uint64_t from, uint64_t most) const {
    return run_of(top(), from, most);
  }
  bool are_absent(const Run& run) const {
    return !top().blocks().present(run.first) &&
           top().blocks().run(run.first, run.count) == run.count;
  }

  // Before the queues run: a program serves, too, with the memory that take()
  // was given. `shared` is borrowed, `drain` as of Drains.
  Result<void> serve_with(ublk_bpf_clone* shared,
                          std::function<Result<void>()> drain);
  // Nothing without a program.
  Drains* drains() { return drains_.get(); }
  // Whether the map outlives this process. Until then every block that becomes
  // present is saved at once.
  bool keeps_map() const { return keeps_map_.load(std::memory_order_acquire); }
  void keep_map(bool keeps) { keeps_map_.store(keeps); }

  // ESTALE: the file below the layers has changed since they were opened.
  Result<void> check_base() const;
  // Where an extent's bytes are; nullptr: they are zeroes.
  const Backing* file_of(const Extent& extent) const;

  // After serve_with(), if there is a program: begins, and ends with close().
  Result<void> flatten(uint64_t bytes_per_second,
                       std::function<void(const FlattenProgress&)> tell);

  BusyBlocks& busy() { return busy_; }
  SaveRounds& saves() { return saves_; }
  // Whether a synced file is all that a FLUSH needs.
  bool is_saved() { return read_only_ || saves_.idle(top().blocks()); }

 private:
  Clone(LayerChain chain, const Options& options);

  static Run run_of(const Layer& layer, uint64_t from, uint64_t most);

  Memory memory_;  // outlives the layer that uses it
  LayerChain chain_;
  bool read_only_;
  bool taken_;
  BusyBlocks busy_;
  SaveRounds saves_;
  std::unique_ptr<Drains> drains_;
  std::unique_ptr<Flatten> flatten_;  // uses all of them
  std::atomic<bool> keeps_map_ = true;
};

}  // namespace ublk
