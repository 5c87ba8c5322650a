// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "layer/block_map.h"
#include "layer/uuid.h"
#include "sys/backing.h"
#include "sys/error.h"

namespace ublk {

// A layer file: the blocks of a disk that differ from what is below it. Its
// format is docs/layer-format.md.

// What is below a layer.
struct LayerBase {
  enum class Kind : uint8_t {
    none,   // zeroes
    layer,  // another layer file
    file,   // a regular file or block device, byte for byte: "raw"
  };
  Kind kind = Kind::none;
  std::string path{};         // absolute
  std::string stored_path{};  // as in the layer: also relative to its directory
  Uuid uuid{};                // of a layer
  uint64_t size_bytes = 0;    // of a file, when the layer was made
  int64_t mtime_ns = 0;       // likewise; 0 for block devices
};

// What a layer's header says.
struct LayerHeader {
  Uuid uuid{};
  uint64_t size_bytes = 0;   // of the disk, a multiple of 512
  uint32_t block_bytes = 0;  // a power of two, 4 KiB to 1 MiB
  bool sealed = false;       // a snapshot: nothing is written any more
  // Of a later program, with something that this one may read around, but does
  // not know how to keep right.
  bool read_only = false;
  LayerBase base{};
  uint64_t bitmap_offset = 0;  // bytes, of the file; a multiple of 4 KiB
  uint64_t data_offset = 0;    // a multiple of 1 MiB
  // The last one may be cut short by the disk's end.
  uint64_t nr_blocks() const {
    return size_bytes / block_bytes + (size_bytes % block_bytes != 0);
  }
};

inline constexpr uint64_t kMostLayerBytes = uint64_t{64} << 40;
inline constexpr uint32_t kLeastBlockBytes = 4096;
inline constexpr uint32_t kMostBlockBytes = 1 << 20;

// An open layer file, the data of which is at data_offset() plus its own
// offset. Destruction closes the file and with it gives up the lock; it saves
// nothing. A child process that has the descriptors has the lock too.
class Layer {
  struct Impl;

 public:
  struct CreateOptions {
    std::string path{};
    uint64_t size_bytes = 0;  // 0: that of the base
    uint32_t block_bytes = 4096;
    std::string base{};  // "": none. Relative to the directory of `path`
    // What the base is; not given: a layer if it begins like one. To be given
    // where others write the base's bytes, as a guest does its disk's.
    std::optional<LayerBase::Kind> base_kind{};
    // A layer that becomes a base must never change again: it is sealed, for
    // which nobody may have it open as a top. false: the caller has, and seals
    // it before the new layer is used.
    bool seal_base = true;
  };
  // Makes a new, empty layer, durable with its directory's entry. EEXIST: there
  // is a file of that name, nothing is touched. E2BIG: upon so many layers.
  // EBUSY: the base is in use as a top.
  static Result<LayerHeader> create(const CreateOptions& options);
  // Whether the file begins like a layer. EISDIR and the like as Backing has
  // them.
  static Result<bool> is_layer(const std::string& path);
  // Of a file that somebody else may have open: no lock, no bitmap. EPROTO as
  // open().
  static Result<LayerHeader> read_header(const std::string& path);

  enum class Use {
    look,   // header and bitmap as they are on disk; no lock
    below,  // as a base: shared lock, read only; others may do the same
    top,    // written: exclusive lock
  };
  struct OpenOptions {
    Use use = Use::look;
    bool buffered = false;
    // Of what is below the top, in a chain: the page cache is where many
    // clones share one base.
    bool buffered_below = false;
    // Memory for the bitmap, of these many words: present, then unsaved. Shared
    // with a program where it is a map's. Borrowed until the layer is closed.
    // Empty function: the process's own. In a chain it is called for each
    // layer, the topmost first.
    std::function<Result<std::span<uint64_t>>(uint64_t words)> memory{};
    // That memory is not zeroed, but what a server has left that is gone: bits
    // that it has and the disk lacks are unsaved, whatever its unsaved words
    // say.
    bool adopt = false;
    // What metadata_fd() is in a server that has the layer open, or a duplicate
    // of it: its lock is shared, so that the next server can have it before the
    // last one gives it up. The file is that one, whatever `path` is by now. Of
    // a chain, the topmost's. Borrowed. -1: none.
    int again = -1;
    // Of a top that may still be somebody else's: it is neither locked nor is
    // its bitmap read, take() does both. `memory` and `adopt` do not matter.
    bool take_later = false;
    // In a chain: likewise of the layer below the top, which is still somebody
    // else's top, and is sealed before take_base().
    bool take_base_later = false;
    // In a chain: a base counts as the same although its size, its time or its
    // UUID says otherwise, or although it is not sealed.
    bool changed_base = false;
    // Of a top: as of BackingOptions.
    bool try_fallocate = false;
  };
  // EPROTO: not a layer, of another version, or damaged; says what and where.
  // EBUSY: locked by somebody else. EROFS: sealed, and is to be the top.
  static Result<Layer> open(const std::string& path,
                            const OpenOptions& options);

  // What errors, and others, call it from now on; the file that is open stays.
  void set_name(std::string path);

  // Of one that was opened to be taken later: locks it, and reads header and
  // bitmap, with `memory` and `adopt` of the options. Errors as of open();
  // after EBUSY it can be tried again.
  Result<void> take(const OpenOptions& options);

  Layer(Layer&&) noexcept;
  Layer& operator=(Layer&&) noexcept;
  ~Layer();

  const LayerHeader& header() const;
  // Where the data is read and written.
  const Backing& file() const;
  // The same file without O_DIRECT, for what Save has. It has the lock, which
  // is the open file's (flock): duplicates of it share it.
  int metadata_fd() const;
  BlockMap& blocks();
  const BlockMap& blocks() const;
  uint64_t data_offset() const { return header().data_offset; }

  // What a save writes: bits that were set when it began, so that the data of
  // all of them is durable once the file is synced after that. Unless it was
  // ended, its destruction makes its bits unsaved again. Not to outlive the
  // layer.
  class Save {
   public:
    struct Sector {
      uint64_t offset = 0;  // bytes, of the file
      std::array<std::byte, 512> bytes{};
    };
    Save(Save&&) noexcept;
    Save& operator=(Save&&) = delete;
    ~Save();
    // Ascending.
    std::vector<Sector> sectors;

   private:
    friend class Layer;
    explicit Save(Impl* layer) : layer_(layer) {}
    std::vector<uint64_t> numbers_;
    Impl* layer_;
  };
  // Step one of three: takes the unsaved bits. Then the caller syncs the data,
  // writes the sectors to metadata_fd(), syncs again, and calls end_save(). If
  // any of that fails, put_back(), and they are unsaved once more. EBUSY: one
  // save at a time, or an older state of a sector could be written last.
  Result<Save> begin_save();
  // Step two, blocking: syncs, writes, syncs.
  Result<void> write(const Save& save);
  void end_save(Save save);
  void put_back(Save save);
  // All steps, blocking; nothing at all, not even a sync, without unsaved bits.
  Result<void> save();
  // Nothing is written after it: saves, marks the header, durably, and then has
  // the lock of a layer below.
  Result<void> seal();
  // Nothing below it is needed any more, as all that is not zeroes there is
  // present here, on the disk too: it has no base from then on, durably. Here
  // it keeps it until it is opened again. EROFS: it is not open to be written.
  Result<void> make_independent();
  // Makes the disk larger, durably, in file and header, but not here: blocks()
  // is as large as it was until the layer is opened again (`again`). What was
  // beyond the end is as below, where nothing is written to it. Saves before.
  // EINVAL: is not larger, or not a size. EFBIG: the bitmap has no room for it,
  // which is made for eight times the first size: a larger layer upon this one
  // can have any size.
  Result<void> grow(uint64_t size_bytes);
  // What of that can be said before.
  Result<void> check_grow(uint64_t size_bytes) const;

 private:
  explicit Layer(std::unique_ptr<Impl> impl);
  Result<void> look_at_header();
  std::unique_ptr<Impl> impl_;
};

// A top layer and all that is below it, the topmost first.
struct LayerChain {
  static constexpr size_t kMost = 16;  // layers, without a base that is a file
  std::vector<Layer> layers;
  std::optional<Backing> base;  // that is a file
  // Opens the layer for `use`, and the others as `below`, or all of them for a
  // look. `options.use` does not matter. ELOOP: a circle. E2BIG: more than
  // kMost. ESTALE: a base is another one than when the layer was made, or has
  // changed since; names both. ETXTBSY: one can still change, as it is not
  // sealed. If that is what an interrupted snapshot has left, which is right
  // below a top without a block, and if it is opened for use, it is sealed now.
  static Result<LayerChain> open(const std::string& top,
                                 const Layer::OpenOptions& options,
                                 Layer::Use use = Layer::Use::top);
  // Of a chain that was opened with take_base_later. ETXTBSY: the layer below
  // the top is not sealed.
  Result<void> take_base();
};

}  // namespace ublk
