// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sys/backing.h"
#include "sys/error.h"
#include "sys/mmap_region.h"

namespace ublk {

// A layer file: the blocks of a disk that differ from what is below it. Its
// format is docs/layer-format.md.

using Uuid = std::array<uint8_t, 16>;  // all zero: none
std::string uuid_text(const Uuid& uuid);

// What is below a layer.
struct LayerBase {
  enum class Kind : uint8_t {
    none,   // zeroes
    layer,  // another layer file
    file,   // a regular file or block device, byte for byte: "raw"
  };
  Kind kind = Kind::none;
  std::string path{};       // absolute; as in the file
  Uuid uuid{};              // of a layer
  uint64_t size_bytes = 0;  // of a file, when the layer was made
  int64_t mtime_ns = 0;     // likewise; 0 for block devices
};

// What a layer's header says.
struct LayerHeader {
  Uuid uuid{};
  uint64_t size_bytes = 0;   // of the disk, a multiple of 512
  uint32_t block_bytes = 0;  // a power of two, 4 KiB to 1 MiB
  bool sealed = false;       // a snapshot: nothing is written any more
  LayerBase base{};
  uint64_t bitmap_offset = 0;  // bytes, of the file; multiples of 4 KiB
  uint64_t data_offset = 0;    // a multiple of the block size
  // The last one may be cut short by the disk's end.
  uint64_t nr_blocks() const {
    return (size_bytes + block_bytes - 1) / block_bytes;
  }
};

// Which blocks of a layer are present, in memory: bit N % 64 of word N / 64.
// A bit goes from 0 to 1 once and never back. Other threads may set bits at any
// time, and so may the kernel's program if the memory is a BPF map's. What the
// disk lacks is noted per sector of the bitmap on disk ("unsaved").
class BlockMap {
 public:
  // Bits that one 512-byte sector of the bitmap on disk has.
  static constexpr uint64_t kSectorBits = 63 * 64;

  // Both of them borrowed, zeroed, and as large as words_for() and
  // unsaved_words_for() say.
  BlockMap(uint64_t nr_blocks, std::span<uint64_t> present,
           std::span<uint64_t> unsaved);
  static uint64_t words_for(uint64_t nr_blocks);
  static uint64_t unsaved_words_for(uint64_t nr_blocks);

  uint64_t nr_blocks() const { return nr_blocks_; }
  bool present(uint64_t block) const;
  // The number of blocks from `first` on, at most `most`, that are all present
  // or all absent as the first one is.
  uint64_t run(uint64_t first, uint64_t most) const;
  // Makes blocks visible whose data is in the file already, and notes that the
  // disk does not know.
  void set(uint64_t first, uint64_t count);
  uint64_t count() const;
  // Whether save() has something to write.
  bool unsaved() const;
};

// An open layer file, the data of which is at data_offset() plus its own
// offset. Destruction closes the file and with it gives up the lock; it saves
// nothing.
class Layer {
 public:
  struct CreateOptions {
    std::string path;
    uint64_t size_bytes = 0;  // 0: that of the base
    uint32_t block_bytes = 4096;
    std::string base{};  // "": none
  };
  // Makes a new, empty layer, durable with its directory's entry. EEXIST: there
  // is a file of that name, nothing is touched.
  static Result<LayerHeader> create(const CreateOptions& options);
  // Whether the file begins like a layer. EISDIR and the like as Backing has
  // them.
  static Result<bool> is_layer(const std::string& path);

  enum class Use {
    look,   // header and bitmap as they are on disk; no lock
    below,  // as a base: shared lock, read only; others may do the same
    top,    // written: exclusive lock
  };
  struct OpenOptions {
    Use use = Use::look;
    bool buffered = false;
    // Memory for the bitmap, of these many words: present, then unsaved. Shared
    // with a program where it is a map's. Empty function: the process's own.
    std::function<Result<std::span<uint64_t>>(uint64_t words)> memory{};
  };
  // EPROTO: not a layer, of another version, or damaged; says what and where.
  // EBUSY: locked by somebody else. EROFS: sealed, and is to be the top.
  static Result<Layer> open(const std::string& path,
                            const OpenOptions& options);

  const LayerHeader& header() const;
  const Backing& file() const;
  BlockMap& blocks();
  const BlockMap& blocks() const;
  uint64_t data_offset() const { return header().data_offset; }

  // What a save writes: bits that were set when it began, so that the data of
  // all of them is durable once the file is synced after that.
  struct Save {
    struct Sector {
      uint64_t offset = 0;  // bytes, of the file
      std::array<std::byte, 512> bytes{};
    };
    std::vector<Sector> sectors;
  };
  // Step one of three: takes the unsaved bits. Then the caller syncs the data,
  // writes the sectors, and syncs again. If any of that fails, put_back(), and
  // they are unsaved once more. One save at a time.
  Save begin_save();
  void put_back(const Save& save);
  // All three steps, blocking.
  Result<void> save();
  // Nothing is written after it: marks the header, durably. Saves before.
  Result<void> seal();
};

// A top layer and all that is below it, the topmost first.
struct LayerChain {
  static constexpr size_t kMost = 16;  // layers, without a base that is a file
  std::vector<Layer> layers;
  std::optional<Backing> base;  // that is a file
  // Opens the layer as `top` and the others as `below`. ELOOP: a circle.
  // E2BIG: more than kMost. ESTALE: a base is another one than when the layer
  // was made, or has changed since; names both.
  static Result<LayerChain> open(const std::string& top,
                                 const Layer::OpenOptions& options);
};

}  // namespace ublk
