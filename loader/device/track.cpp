// SPDX-License-Identifier: MIT
#include "device/track.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include "device/device.h"
#include "device/map_file.h"
#include "device/server_process.h"
#include "layer/track_extents.h"
#include "server/track.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kPoll = 1ms;
constexpr auto kLookAtServer = 100ms;

constexpr MapFileKind kKind = {.magic = "ublktrk",
                               .what = "the map of a track file",
                               .other = "the map of another track file",
                               .lost = ""};
constexpr uint64_t kSharedWords = sizeof(ublk_bpf_track) / sizeof(uint64_t);

Result<TrackMemory> map_file_memory(const UniqueFd& fd,
                                    const TrackHeader& header, bool fresh) {
  const uint64_t words =
      kSharedWords + TrackMemory::words_for(header.nr_blocks());
  MapFile map =
      TRY(map_words(kKind, fd,
                    map_file_header(kKind, header.uuid, header.nr_blocks(),
                                    header.block_bytes, words),
                    fresh));
  auto* shared = reinterpret_cast<ublk_bpf_track*>(map.words.data());
  const auto bits = map.words.subspan(kSharedWords);
  return TrackMemory({.bits = std::move(map.region),
                      .shared = {},
                      .note = std::move(map.note)},
                     shared, bits);
}

// One that is another file's is none, nor is one that is damaged, or saved: by
// now another device may have written to the image.
Result<TrackMemory> find_map_file(const StateStore& states, uint32_t dev_id,
                                  const TrackHeader& header) {
  const UniqueFd fd = TRY(states.open_file(map_file_name(dev_id), O_RDWR));
  if (is_map_saved(fd))
    return fail(ENOENT, "{}: is saved", map_file_name(dev_id));
  auto memory = map_file_memory(fd, header, false);
  if (!memory && memory.error().code() == EPROTO)
    return fail(ENOENT, "{}: {}", map_file_name(dev_id),
                memory.error().message());
  return memory;
}

// ENOENT: there is none of this file's any more.
Result<TrackMemory> find_memory(const StateStore& states,
                                const DeviceState& state,
                                const TrackHeader& header) {
  if (state.track_maps.bits) return memory_of(state.track_maps, header);
  return find_map_file(states, state.dev_id, header);
}

}  // namespace

Result<void> connect_track(const StateStore& states, const ServeHooks& hooks,
                           uint32_t dev_id, const Target& target,
                           const TrackProgram* program, bool recovered) {
  if (!target.track) return {};
  const auto make = [&](const TrackHeader& header) -> Result<TrackMemory> {
    if (program) return program->memory(header);
    const UniqueFd fd = TRY(new_map_file(states, dev_id));
    return TRY_IN(map_file_name(dev_id), map_file_memory(fd, header, true));
  };
  const auto find = [&](const TrackHeader& header) -> Result<TrackMemory> {
    if (!program) return find_map_file(states, dev_id, header);
    if (program->is_attached()) return program->memory(header);
    return fail(ENOENT, "the map went with the program");
  };
  TRY_IN(device_name(dev_id),
         target.track->take(make, recovered ? find : Track::Make()));
  if (const auto& remark = target.track->remark())
    hooks.trouble(Error(*remark).in(device_name(dev_id)));
  return {};
}

Result<void> write_track_out(const StateStore& states,
                             const DeviceState& state) {
  auto track = Track::open_left(state.target);
  // Then there is nothing that it could be saved in, or of.
  if (!track &&
      (track.error().code() == ENOENT || track.error().code() == ESTALE))
    return {};
  if (!track) return std::unexpected(std::move(track).error());
  auto memory = find_memory(states, state, (*track)->header());
  if (!memory && memory.error().code() == ENOENT) return {};
  if (!memory) return std::unexpected(std::move(memory).error());
  return (*track)->save_left(std::move(*memory));
}

namespace {

// What a mark waits for.
class Drain {
 public:
  Drain(Control& control, const DeviceState& state, TrackMemory& memory)
      : control_(control), state_(state), memory_(memory) {}

  // Until all is done that was planned or begun before.
  Result<void> all() {
    if (state_.track_maps.bits) {
      auto done = control_.drain_bpf(state_.dev_id);
      if (!done && done.error().code() != ENOENT) return done;
    }
    TRY(server_half());
    return server_half();
  }

 private:
  Result<void> server_half() {
    uint64_t* in_flight = memory_.turn();
    const auto until = steady_clock::now() + control_.deadline();
    auto look = steady_clock::now();
    while (TrackMemory::count(in_flight)) {
      if (steady_clock::now() >= look) {
        TRY(check_server());
        look = steady_clock::now() + kLookAtServer;
      }
      if (steady_clock::now() > until)
        return fail(EAGAIN,
                    "{}: its server has not ended writes that it had begun, "
                    "for {} s: the mark is not made",
                    device_name(state_.dev_id),
                    std::chrono::duration<double>(control_.deadline()).count());
      std::this_thread::sleep_for(kPoll);
    }
    return {};
  }
  // Without one nobody says what has become of its writes.
  Result<void> check_server() {
    const auto info = TRY(control_.info(state_.dev_id));
    if (ServerProcess::find(info)) return {};
    return std::unexpected(
        Error::plain(EAGAIN,
                     fmt("{}: its server has ended and left writes that "
                         "it had begun: the mark is not made",
                         device_name(state_.dev_id)))
            .hint(
                fmt("ublk-bpf recover -n {}, and mark again", state_.dev_id)));
  }

  Control& control_;
  const DeviceState& state_;
  TrackMemory& memory_;
};

// server/track.cpp has the steps, and why nothing is lost.
Result<TrackMark> make_mark(Drain& drain, TrackMemory& memory, TrackFile& file,
                            const std::string& name, TrackBits& bits) {
  memory.only_current();
  TRY(drain.all());
  memory.clear_next();
  TRY(drain.all());
  memory.both();
  auto made = [&]() -> Result<TrackMark> {
    TRY(drain.all());
    bits = memory.bits();
    return file.add_mark(name, bits, memory.all());
  }();
  if (made)
    memory.go_to_next();
  else
    memory.only_current();
  return made;
}

Result<DeviceState> tracked_state(const StateStore& states, uint32_t dev_id) {
  DeviceState state = TRY_IN(device_name(dev_id), states.load(dev_id));
  if (state.target.track.empty())
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: does not track what is written",
                                 device_name(dev_id)))
            .hint("ublk-bpf add -t loop --track FILE"));
  return state;
}

}  // namespace

Result<Marked> mark_device(Control& control, const StateStore& states,
                           uint32_t dev_id, const std::string& name) {
  const auto info = TRY(control.info(dev_id));
  const std::string path = TRY(tracked_state(states, dev_id)).target.track;
  if (info.state == UBLK_S_DEV_DEAD)
    return fail(ENODEV, "{}: has been stopped", device_name(dev_id));
  TrackFile file = TRY(TrackFile::open(path, TrackFile::Use::write));
  TRY(file.hold(true));
  TRY(file.reload());
  // By now: a server that has come meanwhile has held the file.
  const DeviceState state = TRY(tracked_state(states, dev_id));
  if (!name.empty() &&
      std::ranges::contains(file.marks(), name, &TrackMark::name))
    return std::unexpected(
        Error::plain(EEXIST, fmt("{}: has a mark '{}'", path, name))
            .hint("ublk-bpf track list shows them"));
  auto memory = find_memory(states, state, file.header());
  if (!memory && memory.error().code() == ENOENT)
    return std::unexpected(
        Error::plain(ESTALE, fmt("{}: what it notes of its writes is not, or "
                                 "not any more, of {}",
                                 device_name(dev_id), path))
            .hint(fmt("ublk-bpf recover -n {}, or del and add", dev_id)));
  if (!memory) return std::unexpected(std::move(memory).error());

  Marked marked{.file = path};
  const auto before = file.marks();
  Drain drain(control, state, *memory);
  const bool all = memory->all();
  TrackBits bits;
  marked.mark =
      TRY_IN(device_name(dev_id), make_mark(drain, *memory, file, name, bits));
  marked.changed_bytes = tracked_bytes(file.header(), bits, all);
  if (!before.empty()) {
    marked.ended = before.back();
    marked.ended->all = all;
  }
  if (!before.empty() && before.front().number < file.header().oldest())
    marked.dropped = before.front();
  return marked;
}

namespace {

// Of the device that has the track file. ENOENT: there is none, or its memory
// has gone.
Result<TrackMemory> memory_of_file(const StateStore& states,
                                   const std::string& file,
                                   const TrackHeader& header) {
  for (const uint32_t dev_id : states.ids()) {
    const auto state = states.load(dev_id);
    std::error_code ignored;
    if (!state || state->target.track.empty() ||
        !std::filesystem::equivalent(state->target.track, file, ignored))
      continue;
    auto memory = find_memory(states, *state, header);
    if (memory || memory.error().code() != ENOENT) return memory;
  }
  return fail(ENOENT, "no device has {}", file);
}

Result<void> add_ended(const TrackFile& file, Tracked& out) {
  for (const TrackMark& mark : file.marks()) {
    if (mark.number < out.since->number || mark.number == out.header.period)
      continue;
    if (mark.all)
      out.why = fmt("from mark '{}' to the next one all counts as changed",
                    mark.name);
    else if (!TRY(file.add_period(mark.number, out.bits)))
      out.why = fmt("the bitmap of mark '{}' is damaged", mark.name);
  }
  return {};
}

constexpr const char* kNotAlways =
    "since the last mark its image was not always tracked";

Result<void> add_current(const StateStore& states, const TrackFile& file,
                         Tracked& out) {
  if (out.header.in_use) {
    const auto memory = memory_of_file(states, out.file, out.header);
    if (!memory && memory.error().code() != ENOENT)
      return std::unexpected(memory.error());
    if (!memory) {
      out.why = "its device has not been ended, and what it noted is gone";
      return {};
    }
    if (memory->all()) out.why = kNotAlways;
    const TrackBits now = memory->bits();
    out.bits.resize(std::max(out.bits.size(), now.size()));
    for (size_t i = 0; i < now.size(); i++) out.bits[i] |= now[i];
    return {};
  }
  if (out.header.all) {
    out.why = kNotAlways;
    return {};
  }
  const TrackedImage is =
      TRY_IN(out.image, TrackedImage::of(out.image_fd.get()));
  if (!is.is_unchanged(out.header.image))
    out.why = "its image was written to while no device tracked it";
  else if (!TRY(file.add_period(out.header.period, out.bits)))
    out.why = "its bitmap is damaged";
  return {};
}

}  // namespace

Result<Tracked> list_tracked(const StateStore& states, const std::string& path,
                             const std::string& since) {
  TrackFile file = TRY(TrackFile::open(path, TrackFile::Use::look));
  TRY(file.hold(false));
  TRY(file.reload());
  Tracked out{.file = path,
              .image = TRY(file.image_path()),
              .image_fd = {},
              .header = file.header(),
              .marks = file.marks(),
              .since = {},
              .why = {},
              .bits = {}};
  out.image_fd = TRY(UniqueFd::open(out.image, O_RDONLY | O_NONBLOCK));
  if (out.marks.empty() && !since.empty())
    return fail(ENOENT, "{}: has no mark yet", path);
  if (out.marks.empty()) {
    out.why = "there is no mark yet";
    return out;
  }
  out.since = out.marks.back();
  if (!since.empty()) {
    const auto it = std::ranges::find(out.marks, since, &TrackMark::name);
    if (it == out.marks.end())
      return std::unexpected(
          Error::plain(ENOENT, fmt("{}: has no mark '{}'", path, since))
              .hint(fmt("it keeps the last {}: ublk-bpf track list shows them",
                        kMostMarks)));
    out.since = *it;
  }
  TRY(add_ended(file, out));
  TRY(add_current(states, file, out));
  return out;
}

Result<std::string> track_file_of(const StateStore& states, uint32_t dev_id) {
  return TRY(tracked_state(states, dev_id)).target.track;
}

}  // namespace ublk
