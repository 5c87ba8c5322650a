// SPDX-License-Identifier: MIT
#include "device/clone.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "device/clone_program.h"
#include "device/device.h"
#include "layer/layer.h"
#include "prog/maps.h"
#include "server/clone.h"

namespace ublk {

namespace {

constexpr char kMagic[8] = "ublkmap";

MapFileHeader header_of(const LayerHeader& layer, uint64_t words) {
  MapFileHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kMapVersion;
  static_assert(sizeof(header.layer) == sizeof(layer.uuid));
  std::memcpy(header.layer, layer.uuid.data(), sizeof(header.layer));
  header.nr_blocks = layer.nr_blocks();
  header.block_bytes = layer.block_bytes;
  header.words = words;
  return header;
}

Result<void> check_header(MapFileHeader header, const MapFileHeader& wanted) {
  header.saved = wanted.saved;
  if (std::memcmp(&header, &wanted, sizeof(header)) == 0) return {};
  if (std::memcmp(header.magic, wanted.magic, sizeof(header.magic)) != 0)
    return fail(EPROTO, "is not the map of a clone");
  if (header.version != wanted.version)
    return std::unexpected(
        Error::plain(EPROTO, fmt("has version {}, this program knows {}",
                                 header.version, wanted.version))
            .hint("use the ublk-bpf that served the device before"));
  return fail(EPROTO, "is the map of another layer");
}

// The file's memory is there from the beginning: what a full file system cannot
// give later would end the server.
Result<void> make_room(int fd, uint64_t bytes) {
  int code = 0;
  do {
    code = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  } while (code == EINTR);
  if (code) return fail_sys(code, "{} bytes for the map", bytes);
  return {};
}

Result<Clone::Memory> map_words(const UniqueFd& fd, const MapFileHeader& wanted,
                                bool fresh) {
  const uint64_t bytes = kMapHeaderBytes + wanted.words * sizeof(uint64_t);
  if (fresh) TRY(make_room(fd.get(), bytes));
  const off_t has = ::lseek(fd.get(), 0, SEEK_END);
  if (has < 0) return fail_sys(errno, "looking at it");
  if (static_cast<uint64_t>(has) < bytes)
    return fail(EPROTO, "is cut short: has {} bytes of {}", has, bytes);
  Clone::Memory memory;
  memory.region = TRY(MmapRegion::shared(fd.get(), bytes));
  auto* header = reinterpret_cast<MapFileHeader*>(memory.region.data());
  if (fresh)
    *header = wanted;
  else
    TRY(check_header(*header, wanted));
  memory.words = {
      reinterpret_cast<uint64_t*>(memory.region.data() + kMapHeaderBytes),
      wanted.words};
  memory.note = [header](bool saved) {
    std::atomic_ref(header->saved).store(saved);
  };
  return memory;
}

Result<UniqueFd> new_map(const StateStore& states, uint32_t dev_id) {
  const std::string name = map_file_name(dev_id);
  TRY(states.remove_file(name));
  return states.open_file(name, O_RDWR | O_CREAT | O_EXCL);
}

Result<UniqueFd> old_map(const StateStore& states, uint32_t dev_id) {
  auto fd = states.open_file(map_file_name(dev_id), O_RDWR);
  if (!fd && fd.error().code() == ENOENT)
    return std::unexpected(std::move(fd).error().hint(
        "with it went the writes that were not flushed; del and add serve the "
        "layer as it was at the last flush"));
  return fd;
}

bool is_saved(const UniqueFd& fd) {
  MapFileHeader header{};
  return ::pread(fd.get(), &header, sizeof(header), 0) ==
             static_cast<ssize_t>(sizeof(header)) &&
         header.saved;
}

}  // namespace

Result<void> connect_clone(const StateStore& states, uint32_t dev_id,
                           Target& target, bool adopt) {
  if (!target.clone || target.clone->read_only()) return {};
  const std::string name = device_name(dev_id);
  const auto make = [&](const LayerHeader& layer,
                        uint64_t words) -> Result<Clone::Memory> {
    const UniqueFd fd =
        TRY(adopt ? old_map(states, dev_id) : new_map(states, dev_id));
    return TRY_IN(map_file_name(dev_id),
                  map_words(fd, header_of(layer, words), !adopt));
  };
  TRY_IN(name, target.clone->take(make, adopt));
  return {};
}

namespace {

Result<Layer> open_top(const DeviceState& state) {
  Layer layer =
      TRY(Layer::open(state.target.files[0], {.use = Layer::Use::top,
                                              .buffered = state.target.buffered,
                                              .take_later = true}));
  if (!state.target.identities.empty())
    TRY(layer.file().check_is(state.target.identities[0]));
  return layer;
}

// Of a clone with its program, whose map may have gone with that.
Result<void> write_bits_out(const DeviceState& state) {
  if (auto map = open_map(state.clone_maps.bits);
      !map && map.error().code() == ENOENT)
    return {};
  Clone::Memory memory;
  Layer layer = TRY(open_top(state));
  const auto words = [&](uint64_t) -> Result<std::span<uint64_t>> {
    memory = TRY(map_bits(state.clone_maps, layer.header()));
    return memory.words;
  };
  if (auto taken = take_patiently(layer, {.memory = words, .adopt = true});
      !taken) {
    if (taken.error().code() == ENOENT) return {};
    return taken;
  }
  return layer.save();
}

}  // namespace

Result<void> write_map_out(const StateStore& states, const DeviceState& state) {
  if (!is_clone(state.target) || state.target.read_only) return {};
  if (state.clone_maps.bits) return write_bits_out(state);
  auto fd = states.open_file(map_file_name(state.dev_id), O_RDWR);
  if (!fd && fd.error().code() == ENOENT) return {};
  const UniqueFd map = TRY(std::move(fd));
  if (is_saved(map)) return {};
  Clone::Memory memory;
  Layer layer = TRY(open_top(state));
  const auto words = [&](uint64_t count) -> Result<std::span<uint64_t>> {
    memory = TRY_IN(map_file_name(state.dev_id),
                    map_words(map, header_of(layer.header(), count), false));
    return memory.words;
  };
  TRY(take_patiently(layer, {.memory = words, .adopt = true}));
  TRY(layer.save());
  memory.note(true);
  return {};
}

Result<void> keep_map_file(const StateStore& states, const DeviceState& state) {
  const auto layer = TRY(Layer::open(state.target.files[0], {}));
  const auto memory = TRY(map_bits(state.clone_maps, layer.header()));
  const UniqueFd fd = TRY(new_map(states, state.dev_id));
  const auto kept = TRY_IN(
      map_file_name(state.dev_id),
      map_words(fd, header_of(layer.header(), memory.words.size()), true));
  std::ranges::copy(memory.words, kept.words.begin());
  return states.change(state.dev_id,
                       [](DeviceState& now) { now.clone_maps = {}; });
}

std::vector<UniqueFd> hold_maps(const DeviceState& state) {
  std::vector<UniqueFd> held;
  for (const uint32_t id : {state.clone_maps.bits, state.clone_maps.shared})
    if (id)
      if (auto fd = open_map(id)) held.push_back(std::move(*fd));
  return held;
}

namespace {

std::optional<LayerUse> use_in_map(const StateStore& states, uint32_t dev_id) {
  const auto fd = states.open_file(map_file_name(dev_id), O_RDONLY);
  MapFileHeader header{};
  if (!fd || ::pread(fd->get(), &header, sizeof(header), 0) !=
                 static_cast<ssize_t>(sizeof(header)))
    return std::nullopt;
  const uint64_t present = BlockMap::words_for(header.nr_blocks);
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 ||
      header.version != kMapVersion || present > header.words)
    return std::nullopt;
  std::vector<uint64_t> words(present);
  const auto bytes = static_cast<ssize_t>(present * sizeof(uint64_t));
  if (::pread(fd->get(), words.data(), static_cast<size_t>(bytes),
              kMapHeaderBytes) != bytes)
    return std::nullopt;
  return LayerUse{BlockMap(header.nr_blocks, words, {}).count(),
                  header.nr_blocks, header.block_bytes};
}

// As the clone's program has it in its map.
std::optional<LayerUse> use_of_program(CloneMaps maps,
                                       const LayerHeader& layer) {
  if (!maps.bits) return std::nullopt;
  const auto memory = map_bits(maps, layer);
  if (!memory) return std::nullopt;
  const auto present =
      memory->words.first(BlockMap::words_for(layer.nr_blocks()));
  return LayerUse{BlockMap(layer.nr_blocks(), present, {}).count(),
                  layer.nr_blocks(), layer.block_bytes};
}

}  // namespace

std::vector<std::optional<LayerUse>> layer_uses(const StateStore& states,
                                                const DeviceState& state) {
  std::vector<std::optional<LayerUse>> uses;
  for (const LayerFile& file : state.target.layers) {
    std::optional<LayerUse>& use = uses.emplace_back();
    if (file.uuid.empty()) continue;
    if (uses.size() == 1) use = use_in_map(states, state.dev_id);
    if (use) continue;
    const auto layer = Layer::open(file.path, {});
    if (layer && uses.size() == 1)
      use = use_of_program(state.clone_maps, layer->header());
    if (layer && !use)
      use = LayerUse{layer->blocks().count(), layer->header().nr_blocks(),
                     layer->header().block_bytes};
  }
  return uses;
}

Result<void> write_left_maps(Control& control, const StateStore& states,
                             const Target& target) {
  if (!target.clone || target.clone->read_only()) return {};
  for (const uint32_t dev_id : states.ids()) {
    const auto state = states.load(dev_id);
    if (!state || !is_clone(state->target) ||
        state->target.identities.empty() ||
        !state->target.identities[0].same_as(target.spec.identities[0]))
      continue;
    const auto info = control.info(dev_id);
    if (info ? info->state == UBLK_S_DEV_DEAD : info.error().code() == ENODEV)
      TRY_IN(device_name(dev_id), write_map_out(states, *state));
  }
  return {};
}

}  // namespace ublk
