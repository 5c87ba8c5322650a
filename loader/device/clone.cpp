// SPDX-License-Identifier: MIT
#include "device/clone.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "device/clone_program.h"
#include "device/device.h"
#include "device/map_file.h"
#include "device/new_top.h"
#include "device/track.h"
#include "layer/layer.h"
#include "prog/maps.h"
#include "server/clone.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

constexpr std::chrono::seconds kLookWait{5};
constexpr MapFileKind kKind = {
    .magic = "ublkmap",
    .what = "the map of a clone",
    .other = "the map of another layer",
    .lost =
        "with it went the writes that were not flushed; del and add serve "
        "the layer as it was at the last flush"};

MapFileHeader header_of(const LayerHeader& layer, uint64_t words) {
  return map_file_header(kKind, layer.uuid, layer.nr_blocks(),
                         layer.block_bytes, words);
}

Result<Clone::Memory> map_layer(const UniqueFd& fd, const MapFileHeader& wanted,
                                bool fresh) {
  MapFile map = TRY(map_words(kKind, fd, wanted, fresh));
  Clone::Memory memory;
  memory.region = std::move(map.region);
  memory.words = map.words;
  memory.note = std::move(map.note);
  return memory;
}

// Whether the map that the device has is this layer's, of the size that it has.
bool has_map_of(const StateStore& states, uint32_t dev_id,
                const LayerHeader& layer) {
  const auto fd = states.open_file(map_file_name(dev_id), O_RDONLY);
  const auto header = fd ? read_map_header(*fd) : std::nullopt;
  return header && header->nr_blocks == layer.nr_blocks() &&
         std::memcmp(layer.uuid.data(), header->of, sizeof(header->of)) == 0;
}

}  // namespace

Result<void> connect_clone(const StateStore& states, uint32_t dev_id,
                           Target& target, Adopt adopt) {
  if (!target.clone || target.clone->read_only()) return {};
  const std::string name = device_name(dev_id);
  const bool old = adopt == Adopt::yes ||
                   (adopt == Adopt::if_its &&
                    has_map_of(states, dev_id, target.clone->header()));
  const auto make = [&](const LayerHeader& layer,
                        uint64_t words) -> Result<Clone::Memory> {
    const UniqueFd fd = TRY(old ? old_map_file(kKind, states, dev_id)
                                : new_map_file(states, dev_id));
    return TRY_IN(map_file_name(dev_id),
                  map_layer(fd, header_of(layer, words), !old));
  };
  TRY_IN(name, target.clone->take(make, old));
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

Result<void> write_map_out(const StateStore& states,
                           const DeviceState& before) {
  if (!before.target.track.empty()) return write_track_out(states, before);
  if (!is_clone(before.target) || before.target.read_only) return {};
  DeviceState state = before;
  TRY(resolve_new_top(states, state));
  // All that the old top's had is on the disk, or is not wanted.
  if (state.new_top && !state.clone_maps.bits) {
    const auto layer = Layer::read_header(state.target.files[0]);
    if (layer && !has_map_of(states, state.dev_id, *layer)) return {};
  }
  if (state.clone_maps.bits) return write_bits_out(state);
  auto fd = states.open_file(map_file_name(state.dev_id), O_RDWR);
  if (!fd && fd.error().code() == ENOENT) return {};
  const UniqueFd map = TRY(std::move(fd));
  if (is_map_saved(map)) return {};
  Clone::Memory memory;
  Layer layer = TRY(open_top(state));
  const auto words = [&](uint64_t count) -> Result<std::span<uint64_t>> {
    memory = TRY_IN(map_file_name(state.dev_id),
                    map_layer(map, header_of(layer.header(), count), false));
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
  const UniqueFd fd = TRY(new_map_file(states, state.dev_id));
  const auto kept = TRY_IN(
      map_file_name(state.dev_id),
      map_layer(fd, header_of(layer.header(), memory.words.size()), true));
  std::ranges::copy(memory.words, kept.words.begin());
  return states.change(state.dev_id,
                       [](DeviceState& now) { now.clone_maps = {}; });
}

std::vector<UniqueFd> hold_maps(const DeviceState& state) {
  std::vector<UniqueFd> held;
  for (const uint32_t id : {state.clone_maps.bits, state.clone_maps.shared,
                            state.track_maps.bits, state.track_maps.shared})
    if (id)
      if (auto fd = open_map(id)) held.push_back(std::move(*fd));
  return held;
}

namespace {

// The top's words as they are now, in the map file or in the program's map.
// Nothing if the device has neither.
std::optional<std::vector<uint64_t>> live_words(const StateStore& states,
                                                const DeviceState& state,
                                                const LayerHeader& layer) {
  if (state.clone_maps.bits) {
    const auto memory = map_bits(state.clone_maps, layer);
    if (!memory) return std::nullopt;
    return std::vector(memory->words.begin(), memory->words.end());
  }
  const auto fd = states.open_file(map_file_name(state.dev_id), O_RDONLY);
  const auto header = fd ? read_map_header(*fd) : std::nullopt;
  if (!header ||
      !check_map_header(kKind, *header, header_of(layer, header->words)))
    return std::nullopt;
  std::vector<uint64_t> words(BlockMap::words_for(layer.nr_blocks()) +
                              BlockMap::unsaved_words_for(layer.nr_blocks()));
  const auto bytes = static_cast<ssize_t>(words.size() * sizeof(uint64_t));
  if (words.size() > header->words ||
      ::pread(fd->get(), words.data(), static_cast<size_t>(bytes),
              kMapHeaderBytes) != bytes)
    return std::nullopt;
  return words;
}

// As its device has it, or else the disk.
Result<LayerUse> use_of_top(const StateStore& states, const DeviceState& state,
                            const std::string& path) {
  const LayerHeader header = TRY(Layer::read_header(path));
  LayerUse use{.nr_blocks = header.nr_blocks(),
               .block_bytes = header.block_bytes};
  if (auto words = live_words(states, state, header))
    use.present_blocks =
        BlockMap(use.nr_blocks,
                 std::span(*words).first(BlockMap::words_for(use.nr_blocks)),
                 {})
            .count();
  else
    use.present_blocks = TRY(Layer::open(path, {})).blocks().count();
  return use;
}

}  // namespace

std::vector<std::optional<LayerUse>> layer_uses(const StateStore& states,
                                                const DeviceState& state) {
  std::vector<std::optional<LayerUse>> uses;
  for (const LayerFile& file : state.target.layers) {
    std::optional<LayerUse>& use = uses.emplace_back();
    if (file.uuid.empty()) continue;
    if (uses.size() == 1) {
      if (const auto top = use_of_top(states, state, file.path)) use = *top;
      continue;
    }
    if (const auto layer = Layer::open(file.path, {}))
      use = LayerUse{layer->blocks().count(), layer->header().nr_blocks(),
                     layer->header().block_bytes};
  }
  return uses;
}

namespace {

Result<LiveChain> look_at_chain(const StateStore& states,
                                const DeviceState& state) {
  if (!is_clone(state.target))
    return fail(EINVAL, "{}: its target is {}: only a clone has layers",
                device_name(state.dev_id), state.target.type);
  const std::string& top = state.target.files[0];
  const LayerHeader header = TRY(Layer::read_header(top));
  LiveChain live;
  const auto memory = [&](uint64_t words) -> Result<std::span<uint64_t>> {
    std::optional<std::vector<uint64_t>> now;
    if (live.memory.empty() && !state.target.read_only) {
      now = live_words(states, state, header);
      // Not the file's instead: changes would be missing.
      if (!now)
        return fail(EAGAIN, "{}: its map cannot be read just now",
                    device_name(state.dev_id));
    }
    live.memory.push_back(now ? std::move(*now) : std::vector<uint64_t>(words));
    live.memory.back().resize(words);
    return std::span(live.memory.back());
  };
  live.chain = TRY(LayerChain::open(top, {.memory = memory, .adopt = true},
                                    Layer::Use::look));
  return live;
}

}  // namespace

Result<LiveChain> live_chain(const StateStore& states, uint32_t dev_id) {
  const auto until = std::chrono::steady_clock::now() + kLookWait;
  for (;;) {
    auto live = look_at_chain(states, TRY(states.load(dev_id)));
    if (live || live.error().code() != EAGAIN ||
        std::chrono::steady_clock::now() > until)
      return live;
    std::this_thread::sleep_for(kRetryPeriod);
  }
}

Result<void> write_left_maps(Control& control, KnownStates& states,
                             const Target& target) {
  const bool clone = target.clone && !target.clone->read_only();
  if (!clone && !target.track) return {};
  for (const uint32_t dev_id : states.store().ids()) {
    const DeviceState* state = states.find(dev_id);
    if (!state ||
        (clone ? !is_clone(state->target) : state->target.track.empty()) ||
        state->target.identities.empty() ||
        !state->target.identities[0].same_as(target.spec.identities[0]))
      continue;
    const auto info = control.info(dev_id);
    if (info ? info->state != UBLK_S_DEV_DEAD : info.error().code() != ENODEV)
      continue;
    const UniqueFd held =
        TRY_IN(device_name(dev_id),
               states.store().hold_device(dev_id, control.deadline()));
    const auto now = states.store().load(dev_id);
    if (now) TRY_IN(device_name(dev_id), write_map_out(states.store(), *now));
  }
  return {};
}

}  // namespace ublk
