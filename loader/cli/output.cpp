// SPDX-License-Identifier: MIT
#include "cli/output.h"

#include <algorithm>
#include <cstdio>

#include "cli/json.h"
#include "server/data_path.h"
#include "sys/json_names.h"
#include "sys/names.h"

namespace ublk::cli {

namespace {

json error_to_json(const Error& error) {
  json out = {{"message", error.message()},
              {"errno", error.code_name()},
              {"hint", error.hint_text().empty() ? json(nullptr)
                                                 : json(error.hint_text())}};
  if (!error.detail_text().empty()) out["log"] = error.detail_text();
  return out;
}

json server_to_json(const ServerStats& server) {
  return {{"pid", server.pid},
          {"wakeups", server.wakeups},
          {"cpu_ns", server.cpu_ns},
          {"threads", server.threads}};
}

json refused_to_json(const ublk_bpf_info& info) {
  json list = json::array();
  for (uint32_t reason = 0; reason < UBLK_BPF_NR_REFUSED; reason++)
    if (const ublk_bpf_refused& entry = info.refused[reason]; entry.count)
      list.push_back({{"reason", reason_name(reason)},
                      {"errno", errno_name(static_cast<int>(entry.error))},
                      {"count", entry.count}});
  return list;
}

// A bio has none.
json tag_to_json(uint16_t tag) {
  return tag == UBLK_BPF_NO_TAG ? json(nullptr) : json(tag);
}

json last_refused_to_json(const ublk_bpf_last_refused& last) {
  if (last.reason == UBLK_BPF_REFUSED_NONE) return nullptr;
  return {{"reason", reason_name(last.reason)},
          {"op", op_name(last.op)},
          {"q_id", tag_to_json(last.q_id)},
          {"tag", tag_to_json(last.tag)},
          {"opcode", last.opcode},
          {"sqe_flags", last.sqe_flags},
          {"fd", last.fd},
          {"off", last.off},
          {"len", last.len},
          {"addr", last.addr},
          {"value", last.value}};
}

json id_to_json(uint32_t id) { return id ? json(id) : json(nullptr); }

json bpf_to_json(const Device& device) {
  const ublk_bpf_info& info = *device.bpf;
  const AttachedState* attached = device.attached();
  json out = {{"version", bpf_version(info)},
              {"attached", info.prog_id != 0},
              {"prog_id", id_to_json(info.prog_id)},
              {"complete_id", id_to_json(info.complete_id)},
              {"program", nullptr},
              {"object", nullptr},
              {"files", json::array()},
              {"nr_files", info.nr_files},
              {"knobs", json::object()},
              {"flags", attach_flag_names(info.attach_flags)}};
  if (attached) {
    out["program"] = attached->program;
    out["object"] = attached->object;
    if (!is_utf8(attached->object))
      out["object_bytes"] = percent_encoded(attached->object);
    put_names(out, "files", attached->files);
    for (const auto& [name, value] : attached->knobs)
      out["knobs"][name] = json::parse(value, nullptr, false);
  }
  out["counters"] = {{"nr_attach", info.nr_attach},
                     {"redirected", info.redirected},
                     {"bios", info.bios},
                     {"passed", info.passed},
                     {"dropped", info.dropped},
                     {"aborted", info.aborted},
                     {"failed", info.failed},
                     {"sqes", info.sqes},
                     {"deferred", info.deferred},
                     {"rounds", info.rounds},
                     {"retries", info.retries},
                     {"passed_late", info.passed_late},
                     {"errors_passed", info.errors_passed}};
  out["retiring"] = info.nr_retiring;
  out["sync_failed"] = info.sync_failed;
  out["sync_error"] = info.sync_error
                          ? json(errno_name(static_cast<int>(info.sync_error)))
                          : json(nullptr);
  out["pdu_bytes"] = info.pdu_bytes;
  out["refused"] = refused_to_json(info);
  out["last_refused"] = last_refused_to_json(info.last);
  return out;
}

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(c));
  return out;
}

std::string bpf_text(const Device& device) {
  const ublk_bpf_info& info = *device.bpf;
  const AttachedState* attached = device.attached();
  std::string text = info.prog_id == 0 ? std::string("none attached")
                     : attached
                         ? fmt("program {} id {} object {}", attached->program,
                               info.prog_id, shown_name(attached->object))
                         : fmt("program id {}", info.prog_id);
  if (info.complete_id) text += fmt(" completion id {}", info.complete_id);
  for (const std::string& flag : attach_flag_names(info.attach_flags))
    if (flag != "complete") text += " " + flag;
  text += fmt(", redirected {} passed {} dropped {} aborted {} failed {}",
              info.redirected, info.passed, info.dropped, info.aborted,
              info.failed);
  // What not every program does.
  const std::pair<const char*, uint64_t> more[] = {
      {"bios", info.bios},
      {"rounds", info.rounds},
      {"retries", info.retries},
      {"passed late", info.passed_late},
      {"errors passed", info.errors_passed}};
  for (const auto& [name, count] : more)
    if (count) text += fmt(" {} {}", name, count);
  std::string refused;
  for (uint32_t reason = 0; reason < UBLK_BPF_NR_REFUSED; reason++)
    if (info.refused[reason].count)
      refused += fmt(" {} {}", reason_name(reason), info.refused[reason].count);
  if (!refused.empty()) text += ", refused" + refused;
  if (info.nr_retiring)
    text += fmt(", {} replaced or detached: not yet done with its files",
                info.nr_retiring);
  if (info.sync_failed)
    text += fmt(", {} failed to sync its files: {}", info.sync_failed,
                errno_name(static_cast<int>(info.sync_error)));
  return text;
}

json flatten_to_json(const FlattenState& flatten) {
  return {
      {"bytes_per_second", flatten.bytes_per_second},
      {"size_bytes", flatten.size_bytes},
      {"looked_at_bytes", flatten.looked_at_bytes},
      {"copied_bytes", flatten.copied_bytes},
      {"done", flatten.done},
      {"error", flatten.error.empty() ? json(nullptr) : json(flatten.error)}};
}

json device_to_json(const Device& device) {
  const ublksrv_ctrl_dev_info& info = device.info;
  const bool known = device.state.has_value();
  json out = {
      {"dev_id", info.dev_id},
      {"name", known && !device.state->name.empty() ? json(device.state->name)
                                                    : json(nullptr)},
      {"block", block_path(info.dev_id)},
      {"char", char_path(info.dev_id)},
      {"state", state_name(info.state)},
      {"target", known ? json(device.state->target.type) : json(nullptr)},
      {"over", known && !device.state->target.over.empty()
                   ? json(device.state->target.over)
                   : json(nullptr)},
      {"faults", known ? json(device.state->target.faults) : json::array()},
      {"files", json::array()},
      {"failed_legs", json::array()},
      {"layers", json::array()},
      {"track", nullptr},
      {"nr_hw_queues", info.nr_hw_queues},
      {"queue_depth", info.queue_depth},
      {"size_bytes", device.size_bytes()},
      {"block_size", device.block_bytes()},
      {"max_io_bytes", uint64_t{device.params.basic.max_sectors} << 9},
      {"read_only", device.read_only()},
      {"recovery", recovery_name(info.flags)},
      {"data_path", data_path_of(info.flags).name},
      {"batch", (info.flags & UBLK_F_BATCH_IO) != 0},
      {"bpf_capable", (info.flags & UBLK_F_BPF) != 0},
      {"flatten", known && device.state->flatten
                      ? flatten_to_json(*device.state->flatten)
                      : json(nullptr)},
      {"stuck", device.stuck ? json(device.stuck->message()) : json(nullptr)},
      {"server", nullptr},
      {"bpf", nullptr}};
  if (known) {
    const TargetSpec& target = device.state->target;
    put_names(out, "files", target.files);
    for (size_t leg = 0; leg < target.files.size(); leg++)
      if (target.failed_legs >> leg & 1) out["failed_legs"].push_back(leg);
    if (!target.track.empty()) put_name(out, "track", target.track);
    for (const LayerFile& layer : target.layers) {
      json& to = out["layers"].emplace_back(json::object());
      put_name(to, "path", layer.path);
      to["uuid"] = layer.uuid.empty() ? json(nullptr) : json(layer.uuid);
    }
  }
  if (device.server) out["server"] = server_to_json(*device.server);
  if (device.bpf) out["bpf"] = bpf_to_json(device);
  return out;
}

}  // namespace

std::string error_json(const Error& error) {
  return dump({{"error", error_to_json(error)}});
}

std::string device_json(const Device& device) {
  return dump(device_to_json(device));
}

std::string attach_json(const Device& device, std::chrono::nanoseconds took) {
  json out = device_to_json(device);
  out["attach_ms"] = std::chrono::duration<double, std::milli>(took).count();
  return dump(out);
}

std::string devices_json(const std::vector<Device>& devices) {
  json list = json::array();
  for (const Device& device : devices) list.push_back(device_to_json(device));
  return dump({{"devices", list}});
}

std::string removed_json(const Removed& removed) {
  json failed = json::array();
  for (const auto& [dev_id, error] : removed.failed)
    failed.push_back({{"dev_id", dev_id}, {"error", error_to_json(error)}});
  return dump({{"deleted", removed.deleted}, {"failed", failed}});
}

std::string probe_json(const Probe& probe) {
  json features = json::array();
  for (const Feature& feature : probe.features)
    features.push_back({{"name", feature.name},
                        {"available", feature.available},
                        {"needs", feature.needs},
                        {"how", feature.how}});
  return dump({{"kernel", probe.kernel},
               {"face", face_name(probe.face.face)},
               {"ublk_module", probe.ublk_module},
               {"data_path", probe.data_path.empty() ? json(nullptr)
                                                     : json(probe.data_path)},
               {"features", features},
               {"can_attach", probe.can_attach},
               {"advice", probe.advice}});
}

std::string help_json(const std::string& topic, const std::string& text) {
  return dump({{"topic", topic}, {"help", text}});
}

void say(const std::string& line) { std::fputs((line + "\n").c_str(), stdout); }

int report(const Error& error, bool json_wanted, ExitStatus status) {
  if (json_wanted) say(error_json(error));
  std::fflush(stdout);
  std::string lines =
      fmt("ublk-bpf: {}\n", one_line(error.line())) + error.detail_text();
  if (!lines.ends_with('\n')) lines += '\n';
  std::fputs(lines.c_str(), stderr);
  return status;
}

void warn(const Error& error) {
  std::fputs(fmt("ublk-bpf: warning: {}\n", one_line(error.line())).c_str(),
             stderr);
}

std::string device_line(const Device& device) {
  const ublksrv_ctrl_dev_info& info = device.info;
  return fmt(
      "dev id {}: nr_hw_queues {} queue_depth {} block size {} dev_capacity {} "
      "sectors",
      info.dev_id, info.nr_hw_queues, info.queue_depth, device.block_bytes(),
      device.params.basic.dev_sectors);
}

namespace {

std::string numbers_line(const Device& device) {
  const ublk_param_devt& devt = device.params.devt;
  return fmt("\tublkc: {}:{} ublkb: {}:{} owner: {}:{}", devt.char_major,
             devt.char_minor, devt.disk_major, devt.disk_minor,
             device.info.owner_uid, device.info.owner_gid);
}

// The kernel's selftests take the 7th and 11th field of the line with "state".
std::string kublk_text(const Device& device) {
  const ublksrv_ctrl_dev_info& info = device.info;
  return fmt("{}\n\tmax rq size {} daemon pid {} flags {:#x} state {}",
             device_line(device), info.max_io_buf_bytes, info.ublksrv_pid,
             info.flags, upper(state_name(info.state)));
}

// ublksrv's tests take the 7th and 9th.
std::string ublksrv_text(const Device& device) {
  const ublksrv_ctrl_dev_info& info = device.info;
  return fmt("{}\n\tmax rq size {} daemon pid {} state {}\n\tflags {:#x}\n{}",
             device_line(device), info.max_io_buf_bytes, info.ublksrv_pid,
             upper(state_name(info.state)), info.flags, numbers_line(device));
}

}  // namespace

Result<DeviceText> find_device_text(std::string_view format) {
  if (format == kOwnFormat) return device_text;
  if (format == "kublk") return kublk_text;
  if (format == "ublksrv") return ublksrv_text;
  return fail(EINVAL, "--format {}: is not one of ublk-bpf, kublk, ublksrv",
              format);
}

std::string device_text(const Device& device) {
  const ublksrv_ctrl_dev_info& info = device.info;
  std::string text = fmt("{}\n{}\n", kublk_text(device), numbers_line(device));
  if (device.state) {
    const TargetSpec& target = device.state->target;
    if (!device.state->name.empty())
      text += fmt("\tname {}\n", device.state->name);
    text += "\ttarget " + target.type;
    if (!target.over.empty()) text += " over " + target.over;
    for (size_t i = 0; i < target.files.size(); i++)
      text += fmt(" {}{}", shown_name(target.files[i]),
                  target.failed_legs >> i & 1 ? " (failed)" : "");
    for (size_t i = 1; i < target.layers.size(); i++)
      text += fmt(" on {}", shown_name(target.layers[i].path));
    if (!target.track.empty()) text += " track " + shown_name(target.track);
    for (const auto& rule : target.faults) text += " fault " + shown_name(rule);
    text += fmt(" recovery {} data path {}{}{}\n", recovery_name(info.flags),
                data_path_of(info.flags).name,
                info.flags & UBLK_F_BATCH_IO ? " in batches" : "",
                device.read_only() ? " read-only" : "");
  }
  if (const auto& server = device.server)
    text += fmt("\tserver: wakeups {} cpu {} ns threads {}\n", server->wakeups,
                server->cpu_ns, server->threads);
  if (device.bpf) text += fmt("\tbpf: {}\n", bpf_text(device));
  text.pop_back();
  return text;
}

}  // namespace ublk::cli
