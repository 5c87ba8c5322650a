// SPDX-License-Identifier: MIT
#include "device/clone_program.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <ublk_bpf_maps.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "ctrl/executor.h"
#include "device/device.h"
#include "device/own_program.h"
#include "device/users.h"
#include "prog/maps.h"
#include "sys/ring.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

constexpr const char* kControl = "/dev/ublk-control";
constexpr const char* kProgram = "clone";
constexpr uint32_t kWordBytes = sizeof(uint64_t);
constexpr uint32_t kSharedBytes = sizeof(ublk_bpf_clone);

uint64_t words_of_top(const LayerHeader& header) {
  return BlockMap::words_for(header.nr_blocks()) +
         BlockMap::unsaved_words_for(header.nr_blocks());
}

uint64_t all_words(const LayerHeader& top, size_t nr_layers) {
  return words_of_top(top) +
         (nr_layers - 1) * BlockMap::words_for(top.nr_blocks());
}
uint64_t all_words(const LayerChain& chain) {
  return all_words(chain.layers.front().header(), chain.layers.size());
}

// Descriptors of their own: a lock goes with the server's.
Result<std::vector<Backing>> open_files(const LayerChain& chain) {
  std::vector<Backing> files;
  const auto add = [&files](const Backing& file,
                            bool read_only) -> Result<void> {
    files.push_back(TRY(Backing::open(file.path, {.read_only = read_only,
                                                  .buffered = !file.direct,
                                                  .again = file.fd.get()})));
    return {};
  };
  for (const Layer& layer : chain.layers)
    TRY(add(layer.file(), !files.empty()));
  if (chain.base) TRY(add(*chain.base, true));
  return files;
}

ublk_bpf_clone_chain entry_of(const LayerChain& chain) {
  const LayerHeader& top = chain.layers.front().header();
  // What is beyond the end of a layer is zeroes for those above it.
  uint64_t base = chain.base ? chain.base->size_bytes : 0;
  for (const Layer& layer : chain.layers)
    base = std::min(base, layer.header().size_bytes);
  return {.nr_sectors = top.size_bytes >> kSectorShift,
          .base_sectors = base >> kSectorShift,
          .nr_words = BlockMap::words_for(top.nr_blocks()),
          .nr_marks = BlockMap::unsaved_words_for(top.nr_blocks()),
          .top_offset = chain.layers.front().data_offset(),
          .block_shift = shift_of(top.block_bytes >> kSectorShift),
          .nr_layers = static_cast<uint32_t>(chain.layers.size())};
}

Result<UniqueFd> find_bits(CloneMaps maps, uint64_t words) {
  return find_shared_map(maps.bits, UBLK_BPF_CLONE_BITS, kWordBytes, words);
}

// Of this layer.
Result<UniqueFd> find_shared(CloneMaps maps, const LayerHeader& layer) {
  UniqueFd fd =
      TRY(find_shared_map(maps.shared, UBLK_BPF_CLONE_MAP, kSharedBytes, 1));
  const MmapRegion region = TRY(MmapRegion::shared(fd.get(), kSharedBytes));
  const auto* shared = reinterpret_cast<ublk_bpf_clone*>(region.data());
  static_assert(sizeof(shared->layer) == sizeof(layer.uuid));
  if (std::memcmp(shared->layer, layer.uuid.data(), sizeof(layer.uuid)) != 0)
    return fail(ENOENT, "map {}: is another layer's", maps.shared);
  return fd;
}

// Bits of the layers below the top, which nobody changes. No memory is touched
// for what was never written.
void fill_below(const LayerChain& chain, std::span<uint64_t> words) {
  const uint64_t nr_words =
      BlockMap::words_for(chain.layers.front().header().nr_blocks());
  for (size_t i = 1; i < chain.layers.size(); i++) {
    const auto from = chain.layers[i].blocks().present_words();
    const auto to = words.subspan((i - 1) * nr_words, nr_words);
    for (size_t word = 0; word < from.size(); word++)
      if (from[word]) to[word] = from[word];
  }
}

// For Drains: on a ring of the thread that calls it.
std::function<Result<void>()> drain_of(UniqueFd control, uint32_t dev_id) {
  auto fd = std::make_shared<UniqueFd>(std::move(control));
  auto ring = std::make_shared<std::optional<Ring>>();
  return [fd, ring, dev_id]() -> Result<void> {
    if (!*ring) *ring = TRY(Ring::for_control());
    ublksrv_ctrl_cmd command{};
    command.dev_id = dev_id;
    command.queue_id = static_cast<uint16_t>(-1);
    const int ret = execute_control((*ring)->get(), fd->get(),
                                    UBLK_U_CMD_DRAIN_BPF, command);
    const int code = errno_of(ret);
    // Then nobody has planned anything.
    if (code == ENOENT || !code) return {};
    return fail_sys(code, "drain");
  };
}

}  // namespace

Result<void> CloneProgram::check(const LayerChain& chain, uint64_t size_bytes) {
  const auto no = [](std::string what) {
    return fail(EOPNOTSUPP, "{}: the server serves it alone", what);
  };
  const LayerHeader& top = chain.layers.front().header();
  uint64_t above = size_bytes;
  for (const Layer& layer : chain.layers) {
    const LayerHeader& header = layer.header();
    if (header.block_bytes != top.block_bytes)
      return no(fmt("{}: has blocks of another size than the layer above",
                    layer.file().path));
    const uint64_t has =
        &layer == &chain.layers.front() ? size_bytes : header.size_bytes;
    if (has > above)
      return no(fmt("{}: is larger than the layer above", layer.file().path));
    // The rest of that block would be looked for in the file.
    if (has < above && has % header.block_bytes)
      return no(
          fmt("{}: is smaller than the layer above, and ends within a "
              "block",
              layer.file().path));
    above = has;
  }
  if (chain.layers.size() + (chain.base ? 1 : 0) > UBLK_BPF_MAX_FILES)
    return no(fmt("{}: has more layers than a program has files",
                  chain.layers.front().file().path));
  if (chain.base) {
    const uint64_t unit = std::max<uint64_t>(chain.base->offset_align, 512);
    if (chain.base->size_bytes % unit)
      return no(fmt("{}: has {} bytes, which is not a multiple of {}",
                    chain.base->path, chain.base->size_bytes, unit));
  }
  LayerHeader sized = top;
  sized.size_bytes = size_bytes;
  if (all_words(sized, chain.layers.size()) > UINT32_MAX)
    return no(fmt("{}: has more blocks than a map",
                  chain.layers.front().file().path));
  return {};
}

Result<void> CloneProgram::make_maps(uint64_t words) {
  bits_ = TRY(
      make_shared_map(UBLK_BPF_CLONE_BITS, kWordBytes, words, BPF_F_INNER_MAP));
  shared_ = TRY(make_shared_map(UBLK_BPF_CLONE_MAP, kSharedBytes, 1));
  maps_ = {.bits = TRY(map_info(bits_.get())).id,
           .shared = TRY(map_info(shared_.get())).id};
  return {};
}

Result<void> CloneProgram::make_maps_for(const LayerChain& chain,
                                         uint64_t size_bytes) {
  LayerHeader sized = chain.layers.front().header();
  sized.size_bytes = size_bytes;
  return make_maps(all_words(sized, chain.layers.size()));
}

Result<bool> CloneProgram::has_old_maps() const {
  return !(TRY(map_info(bits_.get())).flags & BPF_F_INNER_MAP);
}

Result<void> CloneProgram::find_maps(const Target& target, CloneMaps maps) {
  bits_ = TRY(find_bits(maps, all_words(target.clone->chain())));
  shared_ = TRY(find_shared(maps, target.clone->header()));
  maps_ = maps;
  return {};
}

Result<void> CloneProgram::prepare(const LayerChain& chain,
                                   std::shared_ptr<const LoadedClone> loaded) {
  files_ = TRY(open_files(chain));
  loaded_ = std::move(loaded);
  return {};
}

Result<std::unique_ptr<CloneProgram>> CloneProgram::load(const Target& target) {
  return load_for_new_top(target, 0, 0);
}

Result<std::unique_ptr<CloneProgram>> CloneProgram::load_for_new_top(
    const Target& target, uint32_t dev_id, uint32_t attached) {
  const LayerChain& chain = target.clone->chain();
  TRY(check(chain, target.clone->header().size_bytes));
  if (dev_id >= UBLK_BPF_DISKS)
    return fail(EOPNOTSUPP, "it serves devices below {}", UBLK_BPF_DISKS);
  std::unique_ptr<CloneProgram> program(new CloneProgram());
  program->control_ = TRY(UniqueFd::open(kControl, O_RDWR));
  TRY(program->prepare(chain,
                       TRY(attached ? LoadedClone::get_other(dev_id, attached)
                                    : LoadedClone::get())));
  program->replaces_ = attached;
  program->fresh_ = true;
  return program;
}

Result<std::unique_ptr<CloneProgram>> CloneProgram::adopt(const Target& target,
                                                          CloneMaps maps) {
  std::unique_ptr<CloneProgram> program(new CloneProgram());
  program->control_ = TRY(UniqueFd::open(kControl, O_RDWR));
  TRY(program->find_maps(target, maps));
  return program;
}

Result<std::unique_ptr<CloneProgram>> CloneProgram::adopt_for_less(
    const Target& target, CloneMaps maps, uint32_t dev_id, uint32_t attached) {
  auto program = TRY(adopt(target, maps));
  TRY(program->prepare(target.clone->chain(),
                       TRY(LoadedClone::get_other(dev_id, attached))));
  program->replaces_ = true;
  return program;
}

Result<void> CloneProgram::connect(Target& target, uint32_t dev_id) {
  Clone& clone = *target.clone;
  const LayerChain& chain = clone.chain();
  ublk_bpf_clone* shared = nullptr;
  // Only now is it known how large the layer is.
  const auto make = [&](const LayerHeader&, uint64_t) -> Result<Clone::Memory> {
    const uint64_t words = all_words(chain);
    if (fresh_ && !bits_.valid()) TRY(make_maps(words));
    Clone::Memory memory;
    memory.region = TRY(MmapRegion::shared(bits_.get(), words * kWordBytes));
    memory.shared = TRY(MmapRegion::shared(shared_.get(), kSharedBytes));
    const std::span all{reinterpret_cast<uint64_t*>(memory.region.data()),
                        words};
    const uint64_t top = words_of_top(clone.header());
    memory.words = all.first(top);
    shared = reinterpret_cast<ublk_bpf_clone*>(memory.shared.data());
    if (fresh_) {
      fill_below(chain, all.subspan(top));
      shared->flags = UBLK_BPF_CLONE_F_CAN_FREEZE;
    }
    std::memcpy(shared->layer, clone.header().uuid.data(),
                sizeof(shared->layer));
    for (size_t i = 0; i < chain.layers.size(); i++)
      shared->data_offset[i] = chain.layers[i].data_offset();
    return memory;
  };
  TRY(clone.take(make, !fresh_));
  chain_ = entry_of(chain);
  clone.keep_map(!fresh_);
  return clone.serve_with(shared, drain_of(std::move(control_), dev_id));
}

Result<AttachedState> CloneProgram::attach(Control& control, uint32_t dev_id,
                                           Clone& clone) {
  const std::string& object = loaded_->object();
  AttachedState attached{.prog_id = loaded_->prog_id(),
                         .program = kProgram,
                         .object = object,
                         .files = {},
                         .knobs = {}};
  ublk_bpf_attach arg{};
  arg.prog_fd = loaded_->fd();
  arg.complete_fd = loaded_->complete_fd();
  arg.flags = UBLK_BPF_ATTACH_F_COMPLETE;
  if (replaces_) arg.flags |= UBLK_BPF_ATTACH_F_REPLACE;
  for (const Backing& file : files_) {
    arg.fds[arg.nr_files++] = file.fd.get();
    attached.files.push_back(file.path);
  }
  TRY_IN(object, loaded_->enter(dev_id, bits_.get(), shared_.get(), chain_));
  auto done = attach_if_unused(control, dev_id, arg);
  const auto now = control.bpf_info(dev_id);
  if (!done) {
    // It may be attached all the same, or be so presently; else gc finds them.
    const int code = done.error().code();
    if (now && now->prog_id != loaded_->prog_id() && code != EINTR &&
        code != ETIME && code != ETIMEDOUT)
      (void)loaded_->leave(dev_id);
    return std::unexpected(std::move(done).error().in(object));
  }
  clone.keep_map(true);
  // The one before it may be at work for this device still: then gc does it.
  if (replaces_ && now && !now->nr_retiring)
    (void)leave_other_clones(dev_id, loaded_->prog_id());
  return attached;
}

Result<void> CloneProgram::set_frozen(bool frozen) {
  const MmapRegion region =
      TRY(MmapRegion::shared(shared_.get(), kSharedBytes));
  auto* shared = reinterpret_cast<ublk_bpf_clone*>(region.data());
  std::atomic_ref flags(shared->flags);
  if (frozen)
    flags.fetch_or(UBLK_BPF_CLONE_F_FROZEN);
  else
    flags.fetch_and(~UBLK_BPF_CLONE_F_FROZEN);
  return {};
}

Result<void> CloneProgram::check_can_freeze() const {
  const MmapRegion region =
      TRY(MmapRegion::shared(shared_.get(), kSharedBytes));
  auto* shared = reinterpret_cast<ublk_bpf_clone*>(region.data());
  if (std::atomic_ref(shared->flags).load() & UBLK_BPF_CLONE_F_CAN_FREEZE)
    return {};
  return std::unexpected(
      Error::plain(EOPNOTSUPP,
                   "its program is of an earlier version, which cannot be held")
          .hint("del the device and add it again, which has this one's"));
}

Result<void> CloneProgram::freeze(Control& control, uint32_t dev_id) {
  TRY(set_frozen(true));
  return control.drain_bpf(dev_id);
}

Result<bool> serves_with(uint32_t prog_id, uint32_t dev_id, CloneMaps maps) {
  const auto same = [&](CloneMaps those) {
    return those.bits == maps.bits && those.shared == maps.shared;
  };
  for (const LoadedClone& one : TRY(LoadedClone::all()))
    if (one.prog_id() == prog_id) return same(one.maps_of(dev_id));
  // Of the version whose programs had them themselves.
  CloneMaps own;
  for (const MapInfo& map : TRY(maps_of_program_ids(std::span(&prog_id, 1)))) {
    if (map.name == UBLK_BPF_CLONE_BITS) own.bits = map.id;
    if (map.name == UBLK_BPF_CLONE_MAP) own.shared = map.id;
  }
  return same(own);
}

Result<void> attach_clone(Workplace& place, CloneProgram& program,
                          uint32_t dev_id, Clone& clone) {
  auto attached = TRY(program.attach(place.control, dev_id, clone));
  return place.states.change(dev_id, [&](DeviceState& state) {
    state.attached = std::move(attached);
  });
}

Result<Clone::Memory> map_bits(CloneMaps maps, const LayerHeader& layer) {
  TRY(find_shared(maps, layer));
  const uint64_t words = words_of_top(layer);
  const UniqueFd bits = TRY(find_bits(maps, words));
  Clone::Memory memory;
  memory.region = TRY(MmapRegion::shared(bits.get(), words * kWordBytes));
  memory.words = {reinterpret_cast<uint64_t*>(memory.region.data()), words};
  return memory;
}

}  // namespace ublk
