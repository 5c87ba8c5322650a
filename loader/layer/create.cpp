// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>

#include "layer/chain.h"
#include "layer/layer_file.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

using namespace layer_format;

std::string directory_of(const std::string& path) {
  const auto dir = std::filesystem::path(path).parent_path();
  return dir.empty() ? "." : dir.string();
}

Result<void> check_options(const Layer::CreateOptions& options) {
  if (options.size_bytes % kSectorBytes)
    return fail(EINVAL, "{}: a size of {} bytes is not a multiple of 512",
                options.path, options.size_bytes);
  if (options.size_bytes > kMostLayerBytes)
    return fail(EINVAL, "{}: a size of {} bytes is more than 64 TiB",
                options.path, options.size_bytes);
  if (!is_power_of_2(options.block_bytes) ||
      options.block_bytes < kLeastBlockBytes ||
      options.block_bytes > kMostBlockBytes)
    return fail(EINVAL,
                "{}: a block of {} bytes is not a power of two from 4K to 1M",
                options.path, options.block_bytes);
  if (options.base.size() > kMostPathBytes)
    return fail(ENAMETOOLONG, "{}: the base's path has more than {} bytes",
                options.path, kMostPathBytes);
  if (options.base.empty() && !options.size_bytes)
    return fail(EINVAL, "{}: neither a base nor a size is given", options.path);
  return {};
}

// The base as the new layer will have it, and as it is held meanwhile.
struct BelowNew {
  LayerBase base{};
  uint64_t size_bytes = 0;  // of the disk
  UniqueFd held{};          // with a shared lock, if it is a layer
  bool to_seal = false;
};

// Nothing is written to it yet.
Result<void> hold_layer(const Layer::CreateOptions& options, BelowNew& below) {
  const std::string& path = below.base.path;
  below.held = TRY(UniqueFd::open(path, O_RDONLY));
  if (options.seal_base)
    TRY(layer_format::lock(below.held.get(), path, Layer::Use::below));
  // All of it has to be right, or the new layer could not be opened.
  const auto chain = TRY(layer_chain_headers(path));
  if (chain.size() >= LayerChain::kMost)
    return std::unexpected(
        Error::plain(E2BIG, fmt("{}: is on {} layers, and no more than {} can "
                                "be on each other",
                                path, chain.size() - 1, LayerChain::kMost))
            .hint("flatten it, or copy it, before more are made on it"));
  // Of the file that is held.
  const LayerHeader header =
      TRY_IN(path, read_header(below.held.get(), path)).header;
  below.base.uuid = header.uuid;
  below.size_bytes = header.size_bytes;
  below.to_seal = options.seal_base && !header.sealed;
  if (below.to_seal && header.read_only)
    return fail(EROFS,
                "{}: is not sealed, and has features that this program does "
                "not know",
                path);
  return {};
}

Result<BelowNew> look_below(const Layer::CreateOptions& options) {
  BelowNew below;
  LayerBase& base = below.base;
  if (options.base.empty()) return below;
  // As Backing has it of the layer, when it is opened.
  std::error_code failed, ignored;
  const auto dir =
      std::filesystem::canonical(directory_of(options.path), failed);
  if (failed)
    return fail_sys(failed.value(), "{}: looking at it",
                    directory_of(options.path));
  base.stored_path = options.base;
  base.path = resolved((dir / "x").string(), options.base);
  auto file = Backing::open(base.path, {.read_only = true, .buffered = true});
  if (!file && file.error().code() == ENOENT &&
      std::filesystem::exists(options.base, ignored))
    return std::unexpected(std::move(file).error().hint(
        fmt("the base is looked for from the directory of {}, where it will "
            "be opened from later",
            options.path)));
  if (!file) return std::unexpected(std::move(file).error());
  base.kind = options.base_kind.value_or(LayerBase::Kind::none);
  if (!options.base_kind)
    base.kind = TRY(Layer::is_layer(base.path)) ? LayerBase::Kind::layer
                                                : LayerBase::Kind::file;
  if (base.kind == LayerBase::Kind::layer) {
    TRY(hold_layer(options, below));
    return below;
  }
  const LayerBase is = TRY(describe_base_file(*file));
  base.size_bytes = is.size_bytes;
  base.mtime_ns = is.mtime_ns;
  below.size_bytes = is.size_bytes;
  return below;
}

LayerHeader header_for(const Layer::CreateOptions& options,
                       const BelowNew& below, const Uuid& uuid) {
  LayerHeader header{.uuid = uuid,
                     .size_bytes = options.size_bytes,
                     .block_bytes = options.block_bytes,
                     .base = below.base,
                     .bitmap_offset = kBitmapOffset};
  // A file may end anywhere; behind its end are zeroes.
  if (!header.size_bytes)
    header.size_bytes =
        (below.size_bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  header.data_offset = data_offset_for(header.size_bytes, header.block_bytes);
  return header;
}

// The header last: what a crash leaves before it is not a layer, and what it
// leaves after it is one, upon a base that is sealed.
Result<void> fill(int fd, const LayerHeader& header, const BelowNew& below) {
  const std::string& path = header.base.stored_path;
  const PathPlace place{.offset = path.empty() ? 0 : kPathOffset,
                        .bytes = static_cast<uint32_t>(path.size()),
                        .checksum = path_checksum(header.uuid, path)};
  if (::ftruncate(fd, static_cast<off_t>(file_bytes(header))) != 0)
    return fail_sys(errno, "making it {} bytes long", file_bytes(header));
  TRY(make_room(fd, header));
  TRY(write_at(fd, std::as_bytes(std::span(path)), place.offset));
  TRY(sync_data(fd));
  if (below.to_seal) {
    const auto writable = TRY(open_buffered(below.held.get(), false));
    TRY_IN(header.base.path, layer_format::seal(writable.get()));
  }
  const HeaderSector sector = encode_header(header, place);
  TRY(write_at(fd, bytes_of(sector), 0));
  return sync_data(fd);
}

Result<void> sync_directory(const std::string& dir) {
  const UniqueFd fd = TRY(UniqueFd::open(dir, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) != 0) return fail_sys(errno, "{}: fsync", dir);
  return {};
}

}  // namespace

Result<LayerHeader> Layer::create(const CreateOptions& options) {
  TRY(check_options(options));
  const BelowNew below = TRY(look_below(options));
  const Uuid uuid = TRY_IN(options.path, new_uuid());
  LayerHeader header = header_for(options, below, uuid);
  if (!header.size_bytes)
    return fail(EINVAL, "{}: the base {} is empty, and no size is given",
                options.path, below.base.path);
  if (header.size_bytes > kMostLayerBytes)
    return fail(EINVAL, "{}: the base's size of {} bytes is more than 64 TiB",
                options.path, header.size_bytes);
  const UniqueFd fd =
      TRY(UniqueFd::open(options.path, O_RDWR | O_CREAT | O_EXCL, 0600));
  auto done = fill(fd.get(), header, below);
  if (!done) done = std::unexpected(std::move(done).error().in(options.path));
  if (done) done = sync_directory(directory_of(options.path));
  if (!done) {
    ::unlink(options.path.c_str());
    return std::unexpected(std::move(done).error());
  }
  return header;
}

}  // namespace ublk
