// SPDX-License-Identifier: MIT
#include "layer/layer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "layer/layer_file.h"
#include "sys/mmap_region.h"

namespace ublk {

using layer_format::SectorFault;

// At one place for as long as the layer is open.
struct Layer::Impl {
  LayerHeader header;
  Backing file;
  UniqueFd metadata;
  MmapRegion own;  // unless the memory is borrowed
  BlockMap blocks{0, {}, {}};
  Use use = Use::look;
  std::atomic<bool> saving = false;
};

namespace {

Result<void> check_length(const LayerHeader& header, const Backing& file) {
  const uint64_t wanted = layer_format::file_bytes(header);
  if (file.size_bytes < wanted)
    return std::unexpected(
        Error::plain(EPROTO, fmt("is cut short: has {} bytes of {}",
                                 file.size_bytes, wanted))
            .hint("ublk-bpf layer check says what is lost"));
  return {};
}

Result<void> check_use(const LayerHeader& header, Layer::Use use) {
  if (use != Layer::Use::top) return {};
  if (header.sealed)
    return std::unexpected(
        Error::plain(EROFS,
                     "is sealed: others may be on it, so nothing is "
                     "written to it any more")
            .hint("ublk-bpf layer create NEW --base FILE makes a layer on it "
                  "that can be written"));
  if (header.read_only)
    return std::unexpected(
        Error::plain(EROFS,
                     "has features that this program can read, but not "
                     "write")
            .hint("use a newer ublk-bpf"));
  return {};
}

// With its lock.
Result<UniqueFd> duplicate(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return fail_sys(errno, "dup");
  return copy;
}

// No memory is touched for what was never written.
Result<void> load_blocks(int fd, const LayerHeader& header, bool adopt,
                         BlockMap& blocks) {
  uint64_t next = 0;
  const auto unsaved_up_to = [&](uint64_t sector) {
    for (; adopt && next < sector; next++) blocks.merge_saved(next, {});
    next = sector + 1;
  };
  TRY(layer_format::for_each_sector(
      fd, layer_format::bitmap_of(header),
      [&](uint64_t number, SectorFault fault,
          const BlockMap::SectorBits& bits) -> Result<void> {
        if (fault != SectorFault::none)
          return std::unexpected(
              Error::plain(EPROTO,
                           layer_format::fault_text(header, number, fault))
                  .hint("ublk-bpf layer check names all damage"));
        if (layer_format::has_stray_bits(header, number, bits))
          return std::unexpected(
              Error::plain(EPROTO,
                           fmt("bitmap sector {}: has blocks beyond the "
                               "disk's end",
                               number))
                  .hint("ublk-bpf layer check --repair removes them"));
        unsaved_up_to(number);
        if (adopt)
          blocks.merge_saved(number, bits);
        else if (bits != BlockMap::SectorBits{})
          blocks.load_saved(number, bits);
        return {};
      }));
  unsaved_up_to(BlockMap::sectors_for(header.nr_blocks()));
  return {};
}

// Of header and bitmap. A file with pages in the cache has every direct I/O on
// it look for dirty ones: without, a write of 4k at depth 32 costs 12.4k
// instructions in place of 14.2k (ublk-bpf bench --part file).
void drop_cache(int fd, const LayerHeader& header) {
  layer_format::drop_cache(fd, 0, header.data_offset);
}

}  // namespace

Layer::Layer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Layer::Layer(Layer&&) noexcept = default;
Layer& Layer::operator=(Layer&&) noexcept = default;
Layer::~Layer() = default;

const LayerHeader& Layer::header() const { return impl_->header; }
const Backing& Layer::file() const { return impl_->file; }
int Layer::metadata_fd() const { return impl_->metadata.get(); }
void Layer::set_name(std::string path) { impl_->file.path = std::move(path); }
BlockMap& Layer::blocks() { return impl_->blocks; }
const BlockMap& Layer::blocks() const { return impl_->blocks; }

Result<bool> Layer::is_layer(const std::string& path) {
  const Backing file =
      TRY(Backing::open(path, {.read_only = true, .buffered = true}));
  std::array<char, layer_format::kMagic.size()> begin{};
  const auto got = layer_format::read_at(
      file.fd.get(), std::as_writable_bytes(std::span(begin)), 0);
  if (!got && got.error().code() != EPROTO)
    return std::unexpected(Error(got.error()).in(path));
  return got && begin == layer_format::kMagic;
}

Result<LayerHeader> Layer::read_header(const std::string& path) {
  const Backing file =
      TRY(Backing::open(path, {.read_only = true, .buffered = true}));
  auto read = TRY_IN(path, layer_format::read_header(file.fd.get(), file.path));
  return std::move(read.header);
}

Result<Layer> Layer::open(const std::string& path, const OpenOptions& options) {
  const bool read_only = options.use != Use::top;
  auto impl = std::make_unique<Impl>();
  impl->use = options.use;
  auto file = Backing::open(path, {.read_only = read_only,
                                   .buffered = options.buffered,
                                   .try_fallocate = options.try_fallocate,
                                   .again = options.again});
  // What nobody may write is likely to be sealed, which says more.
  if (!file && !read_only &&
      (file.error().code() == EACCES || file.error().code() == EROFS))
    if (const auto header = read_header(path))
      TRY_IN(path, check_use(*header, options.use));
  if (!file) return std::unexpected(std::move(file).error());
  impl->file = std::move(*file);
  impl->metadata = TRY_IN(
      path, options.again < 0
                ? layer_format::open_buffered(impl->file.fd.get(), read_only)
                : duplicate(options.again));
  const bool later = options.take_later && options.use != Use::look;
  Layer layer(std::move(impl));
  TRY(later ? layer.look_at_header() : layer.take(options));
  return layer;
}

Result<void> Layer::look_at_header() {
  const std::string& path = impl_->file.path;
  // It may have grown since it was opened.
  if (const off_t end = ::lseek(metadata_fd(), 0, SEEK_END); end > 0)
    impl_->file.size_bytes = static_cast<uint64_t>(end);
  impl_->header =
      TRY_IN(path, layer_format::read_header(metadata_fd(), path)).header;
  TRY_IN(path, check_use(impl_->header, impl_->use));
  TRY_IN(path, check_length(impl_->header, impl_->file));
  return {};
}

Result<void> Layer::take(const OpenOptions& options) {
  const std::string& path = impl_->file.path;
  // What is read before it is locked, may be changed.
  TRY(layer_format::lock(metadata_fd(), path, impl_->use));
  TRY(look_at_header());
  const LayerHeader& header = impl_->header;
  const uint64_t present = BlockMap::words_for(header.nr_blocks());
  const uint64_t unsaved = BlockMap::unsaved_words_for(header.nr_blocks());
  std::span<uint64_t> words;
  if (options.memory) {
    words = TRY_IN(path, options.memory(present + unsaved));
    if (words.size() < present + unsaved)
      return fail(EINVAL, "{}: memory for the bitmap: {} words of {}", path,
                  words.size(), present + unsaved);
  } else {
    impl_->own = TRY_IN(
        path, MmapRegion::anonymous((present + unsaved) * sizeof(uint64_t)));
    words = {reinterpret_cast<uint64_t*>(impl_->own.data()), present + unsaved};
  }
  impl_->blocks = BlockMap(header.nr_blocks(), words.first(present),
                           words.subspan(present, unsaved));
  TRY_IN(path,
         load_blocks(metadata_fd(), header, options.adopt, impl_->blocks));
  drop_cache(metadata_fd(), header);
  return {};
}

Layer::Save::Save(Save&& other) noexcept
    : sectors(std::move(other.sectors)),
      numbers_(std::move(other.numbers_)),
      layer_(std::exchange(other.layer_, nullptr)) {}

Layer::Save::~Save() {
  if (!layer_) return;
  for (const uint64_t number : numbers_) layer_->blocks.mark_unsaved(number);
  layer_->saving = false;
}

Result<Layer::Save> Layer::begin_save() {
  if (impl_->saving.exchange(true))
    return fail(EBUSY, "{}: another save is under way", impl_->file.path);
  Save save(impl_.get());
  if (impl_->use != Use::top || impl_->header.sealed)
    return fail(EROFS, "{}: save: it is not open to be written",
                impl_->file.path);
  save.numbers_ = impl_->blocks.take_unsaved();
  save.sectors.reserve(save.numbers_.size());
  for (const uint64_t number : save.numbers_) {
    const auto sector = layer_format::encode_bits(
        impl_->header.uuid, number, impl_->blocks.sector_bits(number));
    Save::Sector& to = save.sectors.emplace_back();
    to.offset =
        impl_->header.bitmap_offset + number * layer_format::kSectorBytes;
    std::ranges::copy(layer_format::bytes_of(sector), to.bytes.begin());
  }
  return save;
}

void Layer::end_save(Save save) {
  save.numbers_.clear();
  drop_cache(metadata_fd(), impl_->header);
}

// Its destruction does.
void Layer::put_back(Save) {}

Result<void> Layer::save() {
  Save save = TRY(begin_save());
  if (save.sectors.empty()) {
    end_save(std::move(save));
    return {};
  }
  TRY(write(save));
  end_save(std::move(save));
  return {};
}

Result<void> Layer::write(const Save& save) {
  const std::string& path = impl_->file.path;
  TRY_IN(path, layer_format::sync_data(impl_->file.fd.get()));
  for (const Save::Sector& sector : save.sectors)
    TRY_IN(path,
           layer_format::write_at(metadata_fd(), sector.bytes, sector.offset));
  TRY_IN(path, layer_format::sync_data(metadata_fd()));
  return {};
}

Result<void> Layer::make_independent() {
  const std::string& path = impl_->file.path;
  if (impl_->use != Use::top)
    return fail(EROFS, "{}: it is not open to be written", path);
  TRY_IN(path, layer_format::change_header(
                   metadata_fd(), [](layer_format::HeaderSector& sector) {
                     sector.base_kind =
                         static_cast<uint32_t>(LayerBase::Kind::none);
                     sector.base_uuid = {};
                     sector.base_size_bytes = 0;
                     sector.base_mtime_ns = 0;
                     sector.path_offset = 0;
                     sector.path_bytes = 0;
                     sector.path_checksum = 0;
                   }));
  return {};
}

Result<void> Layer::seal() {
  const std::string& path = impl_->file.path;
  if (impl_->use != Use::top)
    return fail(EROFS, "{}: seal: it is not open to be written", path);
  TRY(save());
  // What was written to blocks that were present already.
  TRY_IN(path, layer_format::sync_data(impl_->file.fd.get()));
  TRY_IN(path, layer_format::seal(metadata_fd()));
  impl_->header.sealed = true;
  impl_->use = Use::below;
  return layer_format::relax_lock(metadata_fd(), path);
}

Result<void> Layer::check_grow(uint64_t size_bytes) const {
  const std::string& path = impl_->file.path;
  LayerHeader to = impl_->header;
  to.size_bytes = size_bytes;
  if (impl_->use != Use::top)
    return fail(EROFS, "{}: grow: it is not open to be written", path);
  // Nobody knows what is behind the end there, and it would show.
  if (impl_->file.is_block)
    return std::unexpected(
        Error::plain(EOPNOTSUPP,
                     fmt("{}: grow: is a block device, not a file", path))
            .hint("a larger layer upon it, in a file, can be made"));
  if (size_bytes <= impl_->header.size_bytes ||
      size_bytes % layer_format::kSectorBytes || size_bytes > kMostLayerBytes)
    return fail(EINVAL,
                "{}: grow: a size of {} bytes is not a multiple of 512 from "
                "more than {} bytes to 64 TiB",
                path, size_bytes, impl_->header.size_bytes);
  if (to.data_offset - to.bitmap_offset <
      BlockMap::sectors_for(to.nr_blocks()) * layer_format::kSectorBytes)
    return std::unexpected(
        Error::plain(EFBIG, fmt("{}: grow: its bitmap has no room for {} bytes",
                                path, size_bytes))
            .hint("a new layer upon it can have any size"));
  return {};
}

Result<void> Layer::grow(uint64_t size_bytes) {
  TRY(check_grow(size_bytes));
  const std::string& path = impl_->file.path;
  LayerHeader to = impl_->header;
  to.size_bytes = size_bytes;
  TRY(save());
  const int fd = metadata_fd();
  TRY_IN(path, layer_format::make_room(fd, to));
  // What somebody has put behind the end must not show.
  for (const LayerHeader* header : {&impl_->header, &to})
    if (::ftruncate(fd, static_cast<off_t>(layer_format::file_bytes(*header))))
      return fail_sys(errno, "{}: making it {} bytes long", path,
                      layer_format::file_bytes(*header));
  TRY_IN(path, layer_format::sync_data(fd));
  const auto change = [&](uint64_t size) {
    return layer_format::change_header(
        fd, [size](layer_format::HeaderSector& sector) {
          sector.size_bytes = size;
        });
  };
  auto changed = change(size_bytes);
  if (changed) return {};
  // It may have been written, and not synced.
  (void)change(impl_->header.size_bytes);
  return std::unexpected(std::move(changed).error().in(path));
}

}  // namespace ublk
