// SPDX-License-Identifier: MIT
//
// What info, features and gc print.

#include "cli/json.h"
#include "cli/output.h"
#include "sys/cpu_list.h"
#include "sys/json_names.h"
#include "sys/names.h"

namespace ublk::cli {

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words)
    text += (text.empty() ? "" : " ") + word;
  return text;
}

const QueueThread* thread_of(const DeviceDetails& details, size_t q_id) {
  for (const QueueThread& thread : details.threads)
    if (thread.q_id == q_id) return &thread;
  return nullptr;
}

json params_to_json(const ublk_params& params) {
  const auto is = [&](uint32_t type) { return (params.types & type) != 0; };
  const ublk_param_basic& basic = params.basic;
  const auto has = [&](uint32_t attr) { return (basic.attrs & attr) != 0; };
  const bool discard = is(UBLK_PARAM_TYPE_DISCARD);
  return {
      {"physical_block_size", uint64_t{1} << basic.physical_bs_shift},
      {"io_min_bytes", uint64_t{1} << basic.io_min_shift},
      {"io_opt_bytes", uint64_t{1} << basic.io_opt_shift},
      {"chunk_bytes", uint64_t{basic.chunk_sectors} << 9},
      {"rotational", has(UBLK_ATTR_ROTATIONAL)},
      {"volatile_cache", has(UBLK_ATTR_VOLATILE_CACHE)},
      {"fua", has(UBLK_ATTR_FUA)},
      {"max_discard_bytes",
       discard ? uint64_t{params.discard.max_discard_sectors} << 9 : 0},
      {"max_write_zeroes_bytes",
       discard ? uint64_t{params.discard.max_write_zeroes_sectors} << 9 : 0},
      {"dma_alignment",
       is(UBLK_PARAM_TYPE_DMA_ALIGN) ? uint64_t{params.dma.alignment} + 1 : 0}};
}

json maps_to_json(const DeviceDetails& details) {
  json maps = json::array();
  for (size_t i = 0; i < details.maps.size(); i++) {
    const MapInfo& map = details.maps[i];
    json& out = maps.emplace_back(json{{"id", map.id},
                                       {"name", map.name},
                                       {"type", map_type_name(map.type)},
                                       {"key_bytes", map.key_bytes},
                                       {"value_bytes", map.value_bytes},
                                       {"max_entries", map.max_entries},
                                       {"pinned", nullptr}});
    if (const std::string& path = details.map_pins[i]; !path.empty())
      put_name(out, "pinned", path);
  }
  return maps;
}

}  // namespace

std::string features_json(uint64_t features) {
  return dump({{"features", feature_names(features)}, {"bits", features}});
}

std::string features_text(uint64_t features) {
  std::string text = fmt("ublk_drv features: {:#x}", features);
  for (unsigned bit = 0; bit < 64; bit++)
    if (const uint64_t one = uint64_t{1} << bit; features & one)
      text += fmt("\n\t{:#018x}: {}", one, feature_names(one).front());
  return text;
}

std::string info_json(const DeviceDetails& details) {
  const Device& device = details.device;
  json out = json::parse(device_json(device));
  out["flags"] = feature_names(device.info.flags);
  out["owner"] = {{"uid", device.info.owner_uid},
                  {"gid", device.info.owner_gid}};
  out["params"] = params_to_json(device.params);
  json queues = json::array();
  for (size_t q = 0; q < details.queue_cpus.size(); q++) {
    const QueueThread* thread = thread_of(details, q);
    queues.push_back(
        {{"q_id", q},
         {"cpus", details.queue_cpus[q]},
         {"tid", thread ? json(thread->tid) : json(nullptr)},
         {"affinity", thread ? json(thread->cpus) : json::array()}});
  }
  out["queues"] = queues;
  for (size_t i = 0; i < details.layers.size(); i++) {
    const auto& use = details.layers[i];
    json& layer = out["layers"][i];
    layer["present_blocks"] = use ? json(use->present_blocks) : json(nullptr);
    layer["nr_blocks"] = use ? json(use->nr_blocks) : json(nullptr);
    layer["block_bytes"] = use ? json(use->block_bytes) : json(nullptr);
  }
  out["maps"] = maps_to_json(details);
  return dump(out);
}

std::string info_text(const DeviceDetails& details) {
  const Device& device = details.device;
  std::string text = device_text(device);
  text += fmt("\n\tflags: {}", joined(feature_names(device.info.flags)));
  text += "\n\tparameters:";
  const json params = params_to_json(device.params);
  for (auto it = params.begin(); it != params.end(); ++it)
    text += fmt(" {} {}", it.key(), it->dump());
  for (size_t q = 0; q < details.queue_cpus.size(); q++) {
    text += fmt("\n\tqueue {}: cpus {}", q, cpu_list(details.queue_cpus[q]));
    if (const QueueThread* thread = thread_of(details, q))
      text += fmt(" tid {} affinity {}", thread->tid, cpu_list(thread->cpus));
  }
  for (size_t i = 0; i < details.layers.size(); i++)
    if (const auto& use = details.layers[i])
      text += fmt("\n\tlayer {}: {} of {} blocks of {} bytes present",
                  shown_name(device.state->target.layers[i].path),
                  use->present_blocks, use->nr_blocks, use->block_bytes);
  for (size_t i = 0; i < details.maps.size(); i++) {
    const MapInfo& map = details.maps[i];
    text += fmt("\n\tmap {}: id {}, {}", shown_name(map.name), map.id,
                map_shape(map));
    if (const std::string& path = details.map_pins[i]; !path.empty())
      text += ", pinned " + shown_name(path);
  }
  return text;
}

namespace {

const char* kind_name(Orphan::Kind kind) {
  switch (kind) {
    case Orphan::Kind::device:
      return "device";
    case Orphan::Kind::state:
      return "state";
    case Orphan::Kind::maps:
      return "maps";
    case Orphan::Kind::temporary:
      break;
  }
  return "temporary";
}

std::string orphan_name(const Orphan& orphan) {
  switch (orphan.kind) {
    case Orphan::Kind::device:
      return device_name(orphan.dev_id);
    case Orphan::Kind::state:
      return fmt("{}/{}.json", state_dir(), orphan.dev_id);
    case Orphan::Kind::maps:
      return fmt("maps of {}", device_name(orphan.dev_id));
    case Orphan::Kind::temporary:
      break;
  }
  return fmt("{}/{}", state_dir(), shown_name(orphan.file));
}

}  // namespace

std::string orphans_json(const std::vector<Orphan>& orphans) {
  json list = json::array();
  for (const Orphan& orphan : orphans) {
    const bool is_file = orphan.kind == Orphan::Kind::temporary;
    list.push_back({{"kind", kind_name(orphan.kind)},
                    {"dev_id", is_file ? json(nullptr) : json(orphan.dev_id)},
                    {"file", is_file ? json(orphan.file) : json(nullptr)},
                    {"cleared", orphan.cleared},
                    {"why", orphan.why}});
  }
  return dump({{"orphans", list}});
}

std::string orphan_text(const Orphan& orphan, bool dry_run) {
  return fmt("{}: {}: {}", orphan_name(orphan), orphan.why,
             !orphan.cleared ? "kept"
             : dry_run       ? "would be cleared"
                             : "cleared");
}

}  // namespace ublk::cli
