// SPDX-License-Identifier: MIT
#include "layer/chain.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "layer/layer_file.h"
#include "sys/file_identity.h"

namespace ublk {

namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

std::string time_text(int64_t ns) {
  return fmt("{}.{:09}", ns / kNsPerSecond, ns % kNsPerSecond);
}

// Those that were seen on the way down.
class Way {
 public:
  // E2BIG and ELOOP.
  Result<void> step(const std::string& from, const std::string& to) {
    if (seen_.size() >= LayerChain::kMost)
      return std::unexpected(
          Error::plain(E2BIG, fmt("{}: more than {} layers are on each other",
                                  from, LayerChain::kMost))
              .hint("flatten the chain with the program that made it"));
    return look(from, to);
  }
  // "": from nowhere.
  Result<void> look(const std::string& from, const std::string& to) {
    auto fd = UniqueFd::open(to, O_PATH);
    if (!fd && !from.empty())
      return std::unexpected(
          std::move(fd).error().in(fmt("{}: its base", from)));
    if (!fd) return std::unexpected(std::move(fd).error());
    auto identity = TRY_IN(to, FileIdentity::of(fd->get()));
    if (std::ranges::any_of(
            seen_, [&](const auto& one) { return one.same_as(identity); }))
      return fail(ELOOP, "{}: its base {} is on it: a circle", from, to);
    seen_.push_back(std::move(identity));
    return {};
  }

 private:
  std::vector<FileIdentity> seen_;
};

}  // namespace

Result<LayerBase> describe_base_file(const Backing& file) {
  LayerBase base{.kind = LayerBase::Kind::file,
                 .path = file.path,
                 .size_bytes = file.size_bytes};
  if (file.is_block) return base;
  struct stat st{};
  if (::fstat(file.fd.get(), &st) != 0)
    return fail_sys(errno, "{}: looking at it", file.path);
  base.mtime_ns = st.st_mtim.tv_sec * kNsPerSecond + st.st_mtim.tv_nsec;
  return base;
}

Result<void> check_base_file(const std::string& layer, const LayerBase& base,
                             const Backing& file) {
  const LayerBase now = TRY(describe_base_file(file));
  if (now.size_bytes != base.size_bytes)
    return std::unexpected(
        Error::plain(ESTALE,
                     fmt("{}: its base {} has changed: it has {} bytes "
                         "now, and had {}",
                         layer, base.path, now.size_bytes, base.size_bytes))
            .hint("put the file back as it was"));
  if (now.mtime_ns != base.mtime_ns)
    return std::unexpected(
        Error::plain(ESTALE,
                     fmt("{}: its base {} has changed: it was written at {} s, "
                         "and before the layer was made at {} s",
                         layer, base.path, time_text(now.mtime_ns),
                         time_text(base.mtime_ns)))
            .hint(fmt("put the file back as it was; if its bytes are the same: "
                      "touch -d @{} on it",
                      time_text(base.mtime_ns))));
  return {};
}

Result<void> check_base_layer(const std::string& layer, const LayerBase& base,
                              const LayerHeader& now) {
  if (now.uuid != base.uuid)
    return std::unexpected(
        Error::plain(
            ESTALE,
            fmt("{}: its base {} is another layer: it is {}, and was "
                "{}",
                layer, base.path, uuid_text(now.uuid), uuid_text(base.uuid)))
            .hint("put that one back"));
  if (!now.sealed)
    return std::unexpected(
        Error::plain(ETXTBSY, fmt("{}: its base {} is not sealed, and may have "
                                  "changed since",
                                  layer, base.path))
            .hint("if a snapshot was interrupted, the upper one is empty: a "
                  "device of it that can be written finishes the snapshot"));
  return {};
}

Result<std::vector<LayerHeader>> layer_chain_headers(const std::string& top) {
  std::vector<LayerHeader> headers;
  Way way;
  std::string path = top, above;
  TRY(way.look("", top));
  for (;;) {
    LayerHeader header = TRY(Layer::read_header(path));
    if (!headers.empty())
      TRY(check_base_layer(above, headers.back().base, header));
    headers.push_back(std::move(header));
    const LayerBase& base = headers.back().base;
    if (base.kind == LayerBase::Kind::none) return headers;
    above = std::exchange(path, base.path);
    if (base.kind == LayerBase::Kind::layer) {
      TRY(way.step(above, path));
      continue;
    }
    TRY(way.look(above, path));
    const Backing file =
        TRY(Backing::open(path, {.read_only = true, .buffered = true}));
    TRY(check_base_file(above, base, file));
    return headers;
  }
}

namespace {

// Whether the file has no block yet, as far as the disk knows.
Result<bool> is_empty(const Layer& layer) {
  bool empty = true;
  TRY(layer_format::for_each_sector(
      layer.metadata_fd(), layer_format::bitmap_of(layer.header()),
      [&](uint64_t, layer_format::SectorFault fault,
          const BlockMap::SectorBits& bits) -> Result<void> {
        if (fault != layer_format::SectorFault::none ||
            std::ranges::any_of(bits, [](uint64_t word) { return word; }))
          empty = false;
        return {};
      }));
  return empty;
}

// A snapshot that was interrupted between its last two steps: the new top is in
// its place, and nothing was written to it, while the layer that it is on is
// not sealed yet. Whoever has that one open as a top is in the way.
Result<void> finish_snapshot(const Layer& top) {
  const LayerBase& base = top.header().base;
  if (base.kind != LayerBase::Kind::layer) return {};
  const auto below = Layer::read_header(base.path);
  // Whatever else may be wrong is said by who opens it.
  if (!below || below->sealed || below->uuid != base.uuid) return {};
  if (!TRY_IN(top.file().path, is_empty(top))) return {};
  Layer layer =
      TRY(Layer::open(base.path, {.use = Layer::Use::top, .buffered = true}));
  return layer.seal();
}

}  // namespace

Result<LayerChain> LayerChain::open(const std::string& top,
                                    const Layer::OpenOptions& options,
                                    Layer::Use use) {
  LayerChain chain;
  Way way;
  Layer::OpenOptions now = options;
  now.use = use;
  std::string path = top, above;
  TRY(way.look(
      top, options.again < 0 ? top : fmt("/proc/self/fd/{}", options.again)));
  for (;;) {
    Layer layer = TRY(Layer::open(path, now));
    if (!chain.layers.empty() && !options.changed_base && !now.take_later)
      TRY(check_base_layer(above, chain.layers.back().header().base,
                           layer.header()));
    const bool is_top = chain.layers.empty();
    chain.layers.push_back(std::move(layer));
    if (is_top && use == Layer::Use::top && !options.take_base_later)
      TRY(finish_snapshot(chain.layers.front()));
    const LayerBase& base = chain.layers.back().header().base;
    if (base.kind == LayerBase::Kind::none) return chain;
    above = std::exchange(path, base.path);
    now.buffered = options.buffered || options.buffered_below;
    now.use = use == Layer::Use::look ? use : Layer::Use::below;
    now.take_later = is_top && options.take_base_later;
    now.adopt = false;
    now.again = -1;
    if (base.kind == LayerBase::Kind::layer) {
      TRY(way.step(above, path));
      continue;
    }
    TRY(way.look(above, path));
    chain.base =
        TRY(Backing::open(path, {.read_only = true, .buffered = now.buffered}));
    if (!options.changed_base) TRY(check_base_file(above, base, *chain.base));
    return chain;
  }
}

Result<void> LayerChain::take_base() {
  Layer& base = layers.at(1);
  TRY(base.take({}));
  return check_base_layer(layers.front().file().path,
                          layers.front().header().base, base.header());
}

}  // namespace ublk
