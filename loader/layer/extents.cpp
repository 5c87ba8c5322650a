// SPDX-License-Identifier: MIT
#include "layer/extents.h"

#include <algorithm>
#include <cerrno>
#include <optional>

#include "layer/layer_file.h"

namespace ublk {

namespace {

// Joins what belongs together.
class Joiner {
 public:
  explicit Joiner(const std::function<Result<void>(const LayerExtent&)>& with)
      : with_(with) {}

  Result<void> add(const LayerExtent& next) {
    if (!next.length) return {};
    if (last_ && last_->depth == next.depth && last_->present == next.present &&
        last_->zero == next.zero &&
        (next.zero || last_->offset + last_->length == next.offset)) {
      last_->length += next.length;
      return {};
    }
    TRY(flush());
    last_ = next;
    return {};
  }
  Result<void> flush() {
    if (last_) TRY(with_(*last_));
    last_.reset();
    return {};
  }

 private:
  const std::function<Result<void>(const LayerExtent&)>& with_;
  std::optional<LayerExtent> last_;
};

class Walker {
 public:
  Walker(const LayerChain& chain, Joiner& out) : chain_(chain), out_(out) {}

  // [start, end) of the disk, in the layers from `depth` down.
  Result<void> walk(size_t depth, uint64_t start, uint64_t end) {
    if (depth == chain_.layers.size()) return walk_base(start, end);
    const Layer& layer = chain_.layers[depth];
    const LayerHeader& header = layer.header();
    while (start < end) {
      if (start >= header.size_bytes) return nothing(start, end);
      const uint64_t block = start / header.block_bytes;
      const uint64_t run = layer.blocks().run(block, header.nr_blocks());
      const uint64_t to = std::min(
          {end, header.size_bytes, (block + run) * header.block_bytes});
      if (layer.blocks().present(block))
        TRY(walk_file(layer.metadata_fd(), static_cast<uint32_t>(depth), start,
                      to, layer.data_offset()));
      else
        TRY(walk(depth + 1, start, to));
      start = to;
    }
    return {};
  }

 private:
  Result<void> walk_base(uint64_t start, uint64_t end) {
    const uint64_t size = chain_.base ? chain_.base->size_bytes : 0;
    const auto depth = static_cast<uint32_t>(chain_.layers.size());
    const uint64_t to = std::min(end, size);
    if (start < to) TRY(walk_file(chain_.base->fd.get(), depth, start, to, 0));
    return nothing(std::max(start, to), end);
  }

  Result<void> nothing(uint64_t start, uint64_t end) {
    if (start >= end) return {};
    const size_t files = chain_.layers.size() + (chain_.base ? 1 : 0);
    return out_.add({.start = start,
                     .length = end - start,
                     .depth = static_cast<uint32_t>(files - 1),
                     .zero = true});
  }

  // Data and holes.
  Result<void> walk_file(int fd, uint32_t depth, uint64_t start, uint64_t end,
                         uint64_t offset) {
    const auto add = [&](uint64_t to, bool zero) -> Result<void> {
      TRY(out_.add({.start = start,
                    .length = to - start,
                    .depth = depth,
                    .present = true,
                    .zero = zero,
                    .offset = zero ? 0 : start + offset}));
      start = to;
      return {};
    };
    TRY(layer_format::for_each_data(
        fd, start + offset, end + offset,
        [&](uint64_t from, uint64_t to) -> Result<void> {
          TRY(add(from - offset, true));
          return add(to - offset, false);
        }));
    return add(end, true);
  }

  const LayerChain& chain_;
  Joiner& out_;
};

}  // namespace

Result<void> for_each_extent(
    const LayerChain& chain,
    const std::function<Result<void>(const LayerExtent&)>& with) {
  Joiner joiner(with);
  TRY(Walker(chain, joiner)
          .walk(0, 0, chain.layers.front().header().size_bytes));
  return joiner.flush();
}

Result<void> for_each_change(
    const LayerChain& chain, uint32_t depth,
    const std::function<Result<void>(const LayerChange&)>& with) {
  const uint64_t known = depth < chain.layers.size()
                             ? chain.layers[depth].header().size_bytes
                             : chain.base->size_bytes;
  LayerChange last;
  TRY(for_each_extent(chain, [&](const LayerExtent& extent) -> Result<void> {
    LayerChange next{extent.start, extent.length, extent.zero};
    const uint64_t end = extent.start + extent.length;
    if (extent.depth >= depth) {
      if (end <= known) return {};
      next.start = std::max(extent.start, known);
      next.length = end - next.start;
    }
    if (last.length && last.zero == next.zero &&
        last.start + last.length == next.start) {
      last.length += next.length;
      return {};
    }
    if (last.length) TRY(with(last));
    last = next;
    return {};
  }));
  if (!last.length) return {};
  return with(last);
}

Result<uint32_t> depth_of_layer(const LayerChain& chain,
                                const std::string& path) {
  if (chain.base) {
    const Backing file =
        TRY(Backing::open(path, {.read_only = true, .buffered = true}));
    if (file.identity.same_as(chain.base->identity))
      return static_cast<uint32_t>(chain.layers.size());
  }
  const Layer wanted = TRY(Layer::open(path, {}));
  const auto it = std::ranges::find_if(chain.layers, [&](const Layer& layer) {
    return layer.header().uuid == wanted.header().uuid;
  });
  if (it != chain.layers.end())
    return static_cast<uint32_t>(it - chain.layers.begin());
  return fail(ENOENT, "{}: is not one of the layers that {} is on", path,
              chain.layers.front().file().path);
}

}  // namespace ublk
