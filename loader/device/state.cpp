// SPDX-License-Identifier: MIT
#include "device/state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "sys/text_file.h"

namespace ublk {

namespace {

using nlohmann::json;

std::string file_name(uint32_t dev_id) { return fmt("{}.json", dev_id); }

json target_to_json(const TargetSpec& spec) {
  return {{"type", spec.type},
          {"files", spec.files},
          {"size_bytes", spec.size_bytes},
          {"offset_bytes", spec.offset_bytes},
          {"block_bytes", spec.block_bytes},
          {"max_io_bytes", spec.max_io_bytes},
          {"read_only", spec.read_only},
          {"buffered", spec.buffered},
          {"over", spec.over},
          {"faults", spec.faults}};
}

// The library would convert whatever number it finds, and lose what does not
// fit.
template <typename T>
void get_number(const json& from, const char* key, T& number) {
  const json& value = from.at(key);
  if (!value.is_number_unsigned() || !std::in_range<T>(value.get<uint64_t>()))
    throw json::out_of_range::create(
        406, fmt("{} is no number that it can be", key), &value);
  number = static_cast<T>(value.get<uint64_t>());
}

TargetSpec target_from_json(const json& from) {
  TargetSpec spec;
  from.at("type").get_to(spec.type);
  from.at("files").get_to(spec.files);
  get_number(from, "size_bytes", spec.size_bytes);
  get_number(from, "offset_bytes", spec.offset_bytes);
  get_number(from, "block_bytes", spec.block_bytes);
  get_number(from, "max_io_bytes", spec.max_io_bytes);
  from.at("read_only").get_to(spec.read_only);
  from.at("buffered").get_to(spec.buffered);
  // Earlier programs of this version did not write them.
  spec.over = from.value("over", std::string());
  spec.faults = from.value("faults", std::vector<std::string>());
  return spec;
}

AttachedState attached_from_json(const json& from) {
  AttachedState attached;
  get_number(from, "prog_id", attached.prog_id);
  from.at("program").get_to(attached.program);
  from.at("object").get_to(attached.object);
  from.at("files").get_to(attached.files);
  from.at("knobs").get_to(attached.knobs);
  return attached;
}

}  // namespace

std::string state_to_json(const DeviceState& state) {
  json out = {{"version", kStateVersion},
              {"dev_id", state.dev_id},
              {"instance", state.instance},
              {"target", target_to_json(state.target)},
              {"attached", nullptr}};
  if (const auto& attached = state.attached)
    out["attached"] = {{"prog_id", attached->prog_id},
                       {"program", attached->program},
                       {"object", attached->object},
                       {"files", attached->files},
                       {"knobs", attached->knobs}};
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<DeviceState> state_from_json(std::string_view text) {
  try {
    const json in = json::parse(text);
    int version = 0;
    get_number(in, "version", version);
    if (version != kStateVersion)
      return fail(EPROTO, "has version {}, this program knows {}", version,
                  kStateVersion);
    DeviceState state;
    get_number(in, "dev_id", state.dev_id);
    in.at("instance").get_to(state.instance);
    state.target = target_from_json(in.at("target"));
    if (const json& attached = in.at("attached"); !attached.is_null())
      state.attached = attached_from_json(attached);
    return state;
  } catch (const json::exception& e) {
    return fail(EPROTO, "is no state of a device: {}", e.what());
  }
}

Result<StateStore> StateStore::open(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST)
    return fail_sys(errno, "{}: mkdir", dir);
  UniqueFd fd = TRY(UniqueFd::open(dir, O_RDONLY | O_DIRECTORY));
  return StateStore(dir, std::move(fd));
}

StateStore StateStore::open_existing(const std::string& dir) {
  auto fd = UniqueFd::open(dir, O_RDONLY | O_DIRECTORY);
  return StateStore(dir, fd ? std::move(*fd) : UniqueFd());
}

Result<DeviceState> StateStore::load(uint32_t dev_id) const {
  const std::string name = file_name(dev_id);
  if (!fd_.valid()) return fail_sys(ENOENT, "{}/{}: open", dir_, name);
  const std::string text = TRY_IN(dir_, read_text_at(fd_.get(), name));
  return TRY_IN(fmt("{}/{}", dir_, name), state_from_json(text));
}

Result<UniqueFd> StateStore::lock() const {
  UniqueFd fd = TRY_IN(
      dir_, UniqueFd::open_at(fd_.get(), "lock", O_RDWR | O_CREAT, 0600));
  while (::flock(fd.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail_sys(errno, "{}/lock: flock", dir_);
  return fd;
}

Result<void> StateStore::save(const DeviceState& state) const {
  const UniqueFd held = TRY(lock());
  TRY_IN(dir_, replace_text_at(fd_.get(), file_name(state.dev_id),
                               state_to_json(state)));
  return {};
}

Result<void> StateStore::set_attached(
    uint32_t dev_id, std::optional<AttachedState> attached) const {
  if (!fd_.valid()) return {};
  const UniqueFd held = TRY(lock());
  auto state = load(dev_id);
  if (!state && state.error().code() == ENOENT) return {};
  if (!state) return std::unexpected(std::move(state).error());
  state->attached = std::move(attached);
  TRY_IN(dir_,
         replace_text_at(fd_.get(), file_name(dev_id), state_to_json(*state)));
  return {};
}

Result<void> StateStore::remove(uint32_t dev_id,
                                const std::string& instance) const {
  if (!fd_.valid()) return {};
  const UniqueFd held = TRY(lock());
  if (!instance.empty())
    if (auto state = load(dev_id); state && state->instance != instance)
      return {};
  const std::string name = file_name(dev_id);
  if (::unlinkat(fd_.get(), name.c_str(), 0) != 0 && errno != ENOENT)
    return fail_sys(errno, "{}/{}: remove", dir_, name);
  return {};
}

}  // namespace ublk
