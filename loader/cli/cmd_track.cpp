// SPDX-License-Identifier: MIT
#include <time.h>

#include <cerrno>

#include "cli/command_line.h"
#include "cli/json.h"
#include "cli/output.h"
#include "device/track.h"
#include "layer/track_extents.h"
#include "sys/json_names.h"

// The words of qemu-img's JSON are used where they fit.

namespace ublk::cli {

namespace {

// "2026-11-26T19:22:22Z"
std::string time_text(uint64_t ns) {
  constexpr uint64_t kNsPerSecond = 1'000'000'000;
  const auto seconds = static_cast<time_t>(ns / kNsPerSecond);
  tm broken{};
  char text[32] = "";
  if (::gmtime_r(&seconds, &broken))
    ::strftime(text, sizeof(text), "%FT%TZ", &broken);
  return text;
}

json mark_to_json(const TrackMark& mark) {
  return {{"name", mark.name},
          {"number", mark.number},
          {"time", time_text(mark.time_ns)},
          {"uuid", uuid_text(mark.uuid)}};
}

json or_null(const std::optional<TrackMark>& mark) {
  return mark ? mark_to_json(*mark) : json(nullptr);
}

json marked_to_json(const Marked& marked, uint32_t dev_id) {
  json out = {{"dev_id", dev_id}};
  put_name(out, "filename", marked.file);
  out["mark"] = mark_to_json(marked.mark);
  out["since"] = or_null(marked.ended);
  out["all-changed"] = !marked.ended || marked.ended->all;
  out["changed-bytes"] = marked.changed_bytes;
  out["dropped"] = or_null(marked.dropped);
  return out;
}

std::string marked_to_text(const Marked& marked) {
  std::string text =
      fmt("{}: mark '{}'", shown_name(marked.file), marked.mark.name);
  if (!marked.ended)
    text += ": the first one: begin with a full copy";
  else if (marked.ended->all)
    text += fmt(": since '{}' all counts as changed", marked.ended->name);
  else
    text += fmt(": since '{}' {} bytes have changed", marked.ended->name,
                marked.changed_bytes);
  if (marked.dropped) text += fmt("; '{}' is dropped", marked.dropped->name);
  return text;
}

json tracked_to_json(const Tracked& tracked) {
  json out;
  put_name(out, "filename", tracked.file);
  put_name(out, "image", tracked.image);
  out["virtual-size"] = tracked.header.size_bytes;
  out["offset"] = tracked.header.offset_bytes;
  out["cluster-size"] = tracked.header.block_bytes;
  out["in-use"] = tracked.header.in_use;
  json& marks = out["marks"] = json::array();
  for (const TrackMark& mark : tracked.marks)
    marks.push_back(mark_to_json(mark));
  out["since"] = or_null(tracked.since);
  out["all-changed"] = !tracked.why.empty();
  out["why"] = tracked.why.empty() ? json(nullptr) : json(tracked.why);
  return out;
}

Result<std::string> file_of(const StateStore& states, const Options& options) {
  const TrackOptions& track = options.track;
  if (track.file.empty() == (options.dev_id < 0))
    return fail(EINVAL, "either a track file or -n N is needed");
  if (!track.file.empty()) return track.file;
  return track_file_of(states, static_cast<uint32_t>(options.dev_id));
}

Result<void> say_tracked(Tracked& tracked, bool as_json) {
  const bool all = !tracked.why.empty();
  const uint64_t bytes = tracked_bytes(tracked.header, tracked.bits, all);
  json out = tracked_to_json(tracked);
  out["changed-bytes"] = bytes;
  json& extents = out["extents"] = json::array();
  if (!as_json) {
    for (const TrackMark& mark : tracked.marks)
      say(fmt("mark '{}' of {}", mark.name, time_text(mark.time_ns)));
    say(all ? fmt("all counts as changed: {}", tracked.why)
            : fmt("since '{}' {} bytes have changed", tracked.since->name,
                  bytes));
  }
  TRY(for_each_tracked(
      tracked.header, tracked.bits, all, tracked.image_fd.get(),
      [&](const LayerChange& change) -> Result<void> {
        if (as_json)
          extents.push_back({{"start", change.start},
                             {"length", change.length},
                             {"zero", change.zero},
                             {"data", !change.zero}});
        else
          say(fmt("{:>14} {:>14}  {}", change.start, change.length,
                  change.zero ? "zeroes" : "data"));
        return {};
      }));
  if (as_json) say(dump(out));
  return {};
}

}  // namespace

void define_track_mark(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("--name", options.track.name, "NAME",
               "of the mark, for track list --since (default: its number)");
  command.footer(
      "From now on a new period of what is written. All that has not "
      "completed when this returns belongs to it; what has completed before "
      "is in what is read afterwards. The last 15 marks are kept.\n"
      "A backup: mark, then copy all of the device. Later: mark again, then "
      "copy what track list shows since the mark before. Read the device, not "
      "its file.\n"
      "Examples:\n"
      "  ublk-bpf track mark -n 0\n"
      "  ublk-bpf track mark -n 0 --name monday --json");
}

void define_track_list(Arguments& command, Options& options) {
  command.text("file", options.track.file, "FILE",
               "a track file, whether a device has it or not");
  command.device(options.dev_id, false);
  command.text("--since", options.track.since, "NAME",
               "a mark (default: the last one)");
  command.footer(
      "Shows the marks, and what was written since one of them: offset and "
      "length in bytes, and whether it has data or reads as zeroes now. After "
      "a crash, or when somebody else has written to the image, all counts as "
      "changed, and it says so.\n"
      "Examples:\n"
      "  ublk-bpf track list -n 0\n"
      "  ublk-bpf track list disk.track --since monday --json");
}

int run_track_mark(const Options& options) {
  if (const auto& name = options.track.name; !name.empty())
    if (auto fits = check_mark_name(name); !fits)
      return report(fits.error(), options.json, kUsedWrongly);
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const auto marked = mark_device(*control, StateStore::open_existing(), dev_id,
                                  options.track.name);
  if (!marked) return report(marked.error(), options.json);
  say(options.json ? dump(marked_to_json(*marked, dev_id))
                   : marked_to_text(*marked));
  return kDone;
}

int run_track_list(const Options& options) {
  const StateStore states = StateStore::open_existing();
  const auto file = file_of(states, options);
  if (!file)
    return report(file.error(), options.json,
                  options.dev_id < 0 || !options.track.file.empty()
                      ? kUsedWrongly
                      : kFailed);
  auto tracked = list_tracked(states, *file, options.track.since);
  if (!tracked) return report(tracked.error(), options.json);
  if (auto said = say_tracked(*tracked, options.json); !said)
    return report(said.error(), options.json);
  return kDone;
}

}  // namespace ublk::cli
