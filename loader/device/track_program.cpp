// SPDX-License-Identifier: MIT
#include "device/track_program.h"

#include <ublk_bpf_maps.h>

#include <cerrno>
#include <utility>

#include "device/device.h"
#include "device/own_program.h"
#include "device/users.h"
#include "prog/maps.h"
#include "sys/sizes.h"

namespace ublk {

namespace {

constexpr const char* kProgram = "track";
constexpr uint32_t kWordBytes = sizeof(uint64_t);
constexpr uint32_t kSharedBytes = sizeof(ublk_bpf_track);

uint64_t words_of(const TrackHeader& header) {
  return TrackMemory::words_for(header.nr_blocks());
}

Result<TrackMemory> map_memory(const UniqueFd& bits, const UniqueFd& shared,
                               const TrackHeader& header) {
  const uint64_t words = words_of(header);
  TrackMemory::Regions regions;
  regions.bits = TRY(MmapRegion::shared(bits.get(), words * kWordBytes));
  regions.shared = TRY(MmapRegion::shared(shared.get(), kSharedBytes));
  auto* state = reinterpret_cast<ublk_bpf_track*>(regions.shared.data());
  const std::span all{reinterpret_cast<uint64_t*>(regions.bits.data()), words};
  return TrackMemory(std::move(regions), state, all);
}

Result<UniqueFd> find_bits(TrackMaps maps, const TrackHeader& header) {
  return find_shared_map(maps.bits, UBLK_BPF_TRACK_BITS, kWordBytes,
                         words_of(header));
}
Result<UniqueFd> find_shared(TrackMaps maps) {
  return find_shared_map(maps.shared, UBLK_BPF_TRACK_MAP, kSharedBytes, 1);
}

Result<void> set_knobs(Knobs& knobs, uint64_t offset, uint32_t block_bytes) {
  const std::pair<const char*, uint64_t> values[] = {
      {"offset", offset},
      {"track_shift", shift_of(block_bytes >> kSectorShift)}};
  for (const auto& [name, value] : values)
    TRY(knobs.set(name, fmt("{}", value)));
  return {};
}

Result<void> use_maps(ProgramObject& object, const MapInfo& bits,
                      const MapInfo& shared) {
  TRY(object.size_map(UBLK_BPF_TRACK_BITS, bits.max_entries));
  TRY(object.use_map(bits));
  return object.use_map(shared);
}

}  // namespace

Result<std::unique_ptr<TrackProgram>> TrackProgram::load(const Target& target) {
  const FaceInfo face = TRY(own_program_face("cannot be drained"));
  const TrackHeader& header = target.track->header();
  std::unique_ptr<TrackProgram> program(new TrackProgram());
  ProgramObject object =
      TRY(ProgramObject::open(TRY(find_own_object("track.bpf.o")), face));
  TRY_IN(object.path(),
         set_knobs(object.knobs(), header.offset_bytes, header.block_bytes));
  program->bits_ =
      TRY(make_shared_map(UBLK_BPF_TRACK_BITS, kWordBytes, words_of(header)));
  program->shared_ = TRY(make_shared_map(UBLK_BPF_TRACK_MAP, kSharedBytes, 1));
  const MapInfo bits = TRY(map_info(program->bits_.get()));
  const MapInfo shared = TRY(map_info(program->shared_.get()));
  TRY(use_maps(object, bits, shared));
  TRY(object.load(kProgram));
  program->maps_ = {.bits = bits.id, .shared = shared.id};
  const Backing& image = target.files.front();
  program->file_ = TRY(Backing::open(
      image.path, {.buffered = !image.direct, .again = image.fd.get()}));
  program->object_ = std::move(object);
  return program;
}

Result<std::unique_ptr<TrackProgram>> TrackProgram::adopt(const Target& target,
                                                          TrackMaps maps) {
  std::unique_ptr<TrackProgram> program(new TrackProgram());
  program->bits_ = TRY(find_bits(maps, target.track->header()));
  program->shared_ = TRY(find_shared(maps));
  program->maps_ = maps;
  return program;
}

Result<TrackMemory> TrackProgram::memory(const TrackHeader& header) const {
  return map_memory(bits_, shared_, header);
}

Result<void> TrackProgram::attach(Workplace& place, uint32_t dev_id) {
  AttachedState attached{.prog_id = TRY(object_->id()),
                         .program = kProgram,
                         .object = object_->path(),
                         .files = {file_->path},
                         .knobs = object_->knobs().values()};
  ublk_bpf_attach arg{};
  arg.prog_fd = object_->fd();
  arg.fds[arg.nr_files++] = file_->fd.get();
  TRY_IN(object_->path(), attach_if_unused(place.control, dev_id, arg));
  return place.states.change(dev_id, [&](DeviceState& state) {
    state.attached = std::move(attached);
  });
}

Result<TrackMemory> memory_of(TrackMaps maps, const TrackHeader& header) {
  const UniqueFd bits = TRY(find_bits(maps, header));
  const UniqueFd shared = TRY(find_shared(maps));
  TrackMemory memory = TRY(map_memory(bits, shared, header));
  if (!memory.is_of(header.uuid))
    return fail(ENOENT, "map {}: is another file's", maps.shared);
  return memory;
}

Result<void> share_track(ProgramObject& object, const DeviceState& state) {
  const std::string name = device_name(state.dev_id);
  const bool marks =
      object.has_map(UBLK_BPF_TRACK_BITS) && object.has_map(UBLK_BPF_TRACK_MAP);
  if (state.target.track.empty()) {
    if (!marks) return {};
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: marks what is written, which {} does not track",
                         object.path(), name))
            .hint("ublk-bpf add -t loop --track FILE"));
  }
  if (!marks)
    return std::unexpected(
        Error::plain(EBUSY,
                     fmt("{}: does not mark what is written, which {} tracks",
                         object.path(), name))
            .hint("a device without --track takes it"));
  if (!state.track_maps.bits)
    return fail(EBUSY, "{}: its server tracks what is written alone", name);
  const UniqueFd bits = TRY_IN(name, open_map(state.track_maps.bits));
  const UniqueFd shared = TRY_IN(name, open_map(state.track_maps.shared));
  TRY_IN(object.path(), set_knobs(object.knobs(), state.target.offset_bytes,
                                  state.target.track_block_bytes));
  return use_maps(object, TRY(map_info(bits.get())),
                  TRY(map_info(shared.get())));
}

}  // namespace ublk
