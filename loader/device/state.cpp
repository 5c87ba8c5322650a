// SPDX-License-Identifier: MIT
#include "device/state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "sys/json_names.h"
#include "sys/names.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

using nlohmann::json;

constexpr const char* kLockFile = "lock";  // for the length of a change
constexpr const char* kHoldFile = "hold";

std::string file_name(uint32_t dev_id) { return fmt("{}.json", dev_id); }

std::optional<uint32_t> id_of_file(const std::string& name) {
  uint32_t id = 0;
  std::from_chars(name.data(), name.data() + name.size(), id);
  return file_name(id) == name ? std::optional(id) : std::nullopt;
}

std::string name_of_bytes(const json& encoded) {
  auto name = percent_decoded(encoded.get_ref<const std::string&>());
  if (!name)
    throw json::out_of_range::create(406, name.error().message(), &encoded);
  return std::move(*name);
}

void get_name(const json& from, const char* key, std::string& name) {
  from.at(key).get_to(name);
  if (const auto it = from.find(fmt("{}_bytes", key)); it != from.end())
    name = name_of_bytes(*it);
}

void get_names(const json& from, const char* key,
               std::vector<std::string>& names) {
  from.at(key).get_to(names);
  const auto it = from.find(fmt("{}_bytes", key));
  if (it == from.end()) return;
  names.clear();
  for (const json& encoded : it->get_ref<const json::array_t&>())
    names.push_back(name_of_bytes(encoded));
}

json identity_to_json(const FileIdentity& identity) {
  return {{"is_block", identity.is_block},
          {"dev", identity.dev},
          {"ino", identity.ino},
          {"born_ns", identity.born_ns},
          {"diskseq", identity.diskseq},
          {"first_sector", identity.first_sector},
          {"disk_id", percent_encoded(identity.disk_id)}};
}

json layers_to_json(const std::vector<LayerFile>& layers) {
  json out = json::array();
  for (const LayerFile& layer : layers) {
    json& to = out.emplace_back(json{{"uuid", layer.uuid}});
    put_name(to, "path", layer.path);
  }
  return out;
}

json identities_to_json(const std::vector<FileIdentity>& identities) {
  json out = json::array();
  for (const FileIdentity& identity : identities)
    out.push_back(identity_to_json(identity));
  return out;
}

json new_top_to_json(const NewTopState& next) {
  json out = {{"identities", identities_to_json(next.identities)},
              {"layers", layers_to_json(next.layers)},
              {"in_place", next.in_place}};
  put_name(out, "made", next.made);
  put_name(out, "sealed", next.sealed);
  return out;
}

json flatten_to_json(const FlattenState& flatten) {
  return {{"bytes_per_second", flatten.bytes_per_second},
          {"size_bytes", flatten.size_bytes},
          {"looked_at_bytes", flatten.looked_at_bytes},
          {"copied_bytes", flatten.copied_bytes},
          {"done", flatten.done},
          {"error", flatten.error}};
}

json target_to_json(const TargetSpec& spec) {
  json out = {{"type", spec.type},
              {"size_bytes", spec.size_bytes},
              {"offset_bytes", spec.offset_bytes},
              {"block_bytes", spec.block_bytes},
              {"max_io_bytes", spec.max_io_bytes},
              {"chunk_bytes", spec.chunk_bytes},
              {"read_only", spec.read_only},
              {"buffered", spec.buffered},
              {"write_back", spec.write_back},
              {"over", spec.over},
              {"faults", spec.faults},
              {"fill", spec.fill}};
  if (spec.failed_legs) out["failed_legs"] = spec.failed_legs;
  if (!spec.layers.empty()) out["layers"] = layers_to_json(spec.layers);
  if (!spec.track.empty()) {
    put_name(out, "track", spec.track);
    out["track_block_bytes"] = spec.track_block_bytes;
  }
  put_names(out, "files", spec.files);
  out["identities"] = identities_to_json(spec.identities);
  return out;
}

// The library would convert whatever number it finds, and lose what does not
// fit.
template <typename T>
void get_number(const json& from, const char* key, T& number) {
  const json& value = from.at(key);
  if (!value.is_number_unsigned() || !std::in_range<T>(value.get<uint64_t>()))
    throw json::out_of_range::create(
        406, fmt("{} is not a number that it can be", key), &value);
  number = static_cast<T>(value.get<uint64_t>());
}

FileIdentity identity_from_json(const json& from) {
  FileIdentity identity;
  from.at("is_block").get_to(identity.is_block);
  get_number(from, "dev", identity.dev);
  get_number(from, "ino", identity.ino);
  get_number(from, "born_ns", identity.born_ns);
  get_number(from, "diskseq", identity.diskseq);
  get_number(from, "first_sector", identity.first_sector);
  identity.disk_id = name_of_bytes(from.at("disk_id"));
  return identity;
}

void get_layers(const json& from, std::vector<LayerFile>& layers) {
  const auto it = from.find("layers");
  if (it == from.end()) return;
  for (const json& one : it->get_ref<const json::array_t&>()) {
    LayerFile& layer = layers.emplace_back();
    get_name(one, "path", layer.path);
    one.at("uuid").get_to(layer.uuid);
  }
}

void get_identities(const json& from, std::vector<FileIdentity>& identities) {
  const auto it = from.find("identities");
  if (it == from.end()) return;
  for (const json& one : it->get_ref<const json::array_t&>())
    identities.push_back(identity_from_json(one));
}

NewTopState new_top_from_json(const json& from) {
  NewTopState next;
  get_layers(from, next.layers);
  get_identities(from, next.identities);
  get_name(from, "made", next.made);
  get_name(from, "sealed", next.sealed);
  from.at("in_place").get_to(next.in_place);
  return next;
}

FlattenState flatten_from_json(const json& from) {
  FlattenState flatten;
  get_number(from, "bytes_per_second", flatten.bytes_per_second);
  get_number(from, "size_bytes", flatten.size_bytes);
  get_number(from, "looked_at_bytes", flatten.looked_at_bytes);
  get_number(from, "copied_bytes", flatten.copied_bytes);
  from.at("done").get_to(flatten.done);
  from.at("error").get_to(flatten.error);
  return flatten;
}

TargetSpec target_from_json(const json& from) {
  TargetSpec spec;
  spec.is_new = false;
  from.at("type").get_to(spec.type);
  get_names(from, "files", spec.files);
  get_number(from, "size_bytes", spec.size_bytes);
  get_number(from, "offset_bytes", spec.offset_bytes);
  get_number(from, "block_bytes", spec.block_bytes);
  get_number(from, "max_io_bytes", spec.max_io_bytes);
  from.at("read_only").get_to(spec.read_only);
  from.at("buffered").get_to(spec.buffered);
  // Earlier programs of this version did not write them.
  spec.over = from.value("over", std::string());
  spec.faults = from.value("faults", std::vector<std::string>());
  spec.fill = from.value("fill", true);
  spec.write_back = from.value("write_back", false);
  if (from.contains("chunk_bytes"))
    get_number(from, "chunk_bytes", spec.chunk_bytes);
  if (from.contains("failed_legs"))
    get_number(from, "failed_legs", spec.failed_legs);
  get_layers(from, spec.layers);
  get_identities(from, spec.identities);
  if (from.contains("track")) {
    get_name(from, "track", spec.track);
    get_number(from, "track_block_bytes", spec.track_block_bytes);
  }
  return spec;
}

AttachedState attached_from_json(const json& from) {
  AttachedState attached;
  get_number(from, "prog_id", attached.prog_id);
  from.at("program").get_to(attached.program);
  get_name(from, "object", attached.object);
  get_names(from, "files", attached.files);
  get_identities(from, attached.identities);
  from.at("knobs").get_to(attached.knobs);
  if (from.contains("pin_dir")) {
    get_name(from, "pin_dir", attached.pins.dir);
    get_names(from, "pins", attached.pins.names);
  }
  return attached;
}

std::map<uint16_t, std::vector<uint16_t>> affinity_from_json(const json& from) {
  std::map<uint16_t, std::vector<uint16_t>> affinity;
  for (const auto& [key, cpus] : from.get_ref<const json::object_t&>()) {
    uint16_t q_id = 0;
    const auto [end, bad] =
        std::from_chars(key.data(), key.data() + key.size(), q_id);
    if (bad != std::errc() || end != key.data() + key.size())
      throw json::out_of_range::create(406, key + " is not a queue", &from);
    for (const json& cpu : cpus.get_ref<const json::array_t&>())
      get_number(json{{"cpu", cpu}}, "cpu", affinity[q_id].emplace_back());
  }
  return affinity;
}

}  // namespace

std::string state_dir() {
  if (::geteuid() == 0) return "/run/ublk-bpf";
  const char* dir = ::secure_getenv("XDG_RUNTIME_DIR");
  return (dir && *dir ? std::string(dir) : fmt("/run/user/{}", ::geteuid())) +
         "/ublk-bpf";
}

std::string map_file_name(uint32_t dev_id) { return fmt("{}.map", dev_id); }

std::string udev_file_name(uint32_t dev_id) { return fmt("{}.udev", dev_id); }

std::string state_to_json(const DeviceState& state) {
  json out = {{"version", kStateVersion},
              {"dev_id", state.dev_id},
              {"instance", state.instance},
              {"server", state.server},
              {"target", target_to_json(state.target)},
              {"attached", nullptr}};
  if (!state.name.empty()) out["name"] = state.name;
  if (state.legs_map) out["legs_map"] = state.legs_map;
  if (state.clone_maps.bits)
    out["clone_maps"] = {{"bits", state.clone_maps.bits},
                         {"shared", state.clone_maps.shared}};
  if (state.flatten) out["flatten"] = flatten_to_json(*state.flatten);
  if (state.new_top) out["new_top"] = new_top_to_json(*state.new_top);
  if (state.track_maps.bits)
    out["track_maps"] = {{"bits", state.track_maps.bits},
                         {"shared", state.track_maps.shared}};
  if (!state.affinity.empty()) {
    json& affinity = out["affinity"] = json::object();
    for (const auto& [q_id, cpus] : state.affinity)
      affinity[std::to_string(q_id)] = cpus;
  }
  if (const auto& attached = state.attached) {
    json& to = out["attached"] = {{"prog_id", attached->prog_id},
                                  {"program", attached->program},
                                  {"knobs", attached->knobs}};
    put_name(to, "object", attached->object);
    put_names(to, "files", attached->files);
    if (!attached->identities.empty())
      to["identities"] = identities_to_json(attached->identities);
    if (!attached->pins.dir.empty()) {
      put_name(to, "pin_dir", attached->pins.dir);
      put_names(to, "pins", attached->pins.names);
    }
  }
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
    state.server = in.value("server", std::string());
    state.name = in.value("name", std::string());
    state.target = target_from_json(in.at("target"));
    if (const json& attached = in.at("attached"); !attached.is_null())
      state.attached = attached_from_json(attached);
    // Earlier programs of this version did not write it.
    if (in.contains("affinity"))
      state.affinity = affinity_from_json(in.at("affinity"));
    if (in.contains("legs_map")) get_number(in, "legs_map", state.legs_map);
    if (const auto it = in.find("clone_maps"); it != in.end()) {
      get_number(*it, "bits", state.clone_maps.bits);
      get_number(*it, "shared", state.clone_maps.shared);
    }
    if (const auto it = in.find("flatten"); it != in.end())
      state.flatten = flatten_from_json(*it);
    if (const auto it = in.find("new_top"); it != in.end())
      state.new_top = new_top_from_json(*it);
    if (const auto it = in.find("track_maps"); it != in.end()) {
      get_number(*it, "bits", state.track_maps.bits);
      get_number(*it, "shared", state.track_maps.shared);
    }
    return state;
  } catch (const json::exception& e) {
    return fail(EPROTO, "is not the state of a device: {}", e.what());
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

Result<StateStore> StateStore::duplicate() const {
  UniqueFd fd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return fail_sys(errno, "{}: dup", dir_);
  return StateStore(dir_, std::move(fd));
}

Result<DeviceState> StateStore::load(uint32_t dev_id) const {
  const std::string name = file_name(dev_id);
  if (!fd_.valid()) return fail_sys(ENOENT, "{}/{}: open", dir_, name);
  const std::string text = TRY_IN(dir_, read_text_at(fd_.get(), name));
  DeviceState state = TRY_IN(fmt("{}/{}", dir_, name), state_from_json(text));
  if (state.dev_id != dev_id)
    return fail(EPROTO, "{}/{}: is the state of device {}", dir_, name,
                state.dev_id);
  return state;
}

std::optional<StateStore::Stamp> StateStore::stamp_of(uint32_t dev_id) const {
  struct stat st{};
  if (!fd_.valid() ||
      ::fstatat(fd_.get(), file_name(dev_id).c_str(), &st, 0) != 0)
    return std::nullopt;
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  return Stamp{st.st_ino,
               st.st_ctim.tv_sec * kNsPerSecond + st.st_ctim.tv_nsec};
}

const DeviceState* KnownStates::find(uint32_t dev_id) {
  const auto stamp = states_->stamp_of(dev_id);
  if (!stamp) return nullptr;
  auto& known = known_[dev_id];
  if (!known.state || known.stamp != *stamp) {
    auto state = states_->load(dev_id);
    known.stamp = *stamp;
    known.state = state ? std::optional(std::move(*state)) : std::nullopt;
  }
  return known.state ? &*known.state : nullptr;
}

Result<UniqueFd> StateStore::lock() const {
  UniqueFd fd = TRY_IN(
      dir_, UniqueFd::open_at(fd_.get(), kLockFile, O_RDWR | O_CREAT, 0600));
  while (::flock(fd.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail_sys(errno, "{}/lock: flock", dir_);
  return fd;
}

Result<void> StateStore::write(const DeviceState& state) const {
  // Before there is a disk, of which udev hears.
  if (!state.name.empty())
    TRY_IN(dir_, replace_text_at(fd_.get(), udev_file_name(state.dev_id),
                                 fmt("UBLK_BPF_NAME={}\n", state.name)));
  TRY_IN(dir_, replace_text_at(fd_.get(), file_name(state.dev_id),
                               state_to_json(state)));
  return {};
}

Result<void> StateStore::save(const DeviceState& state) const {
  const UniqueFd held = TRY(lock());
  return write(state);
}

Result<void> StateStore::save_new(
    const DeviceState& state,
    const std::function<bool(uint32_t dev_id)>& is_there) const {
  const UniqueFd held = TRY(lock());
  for (const uint32_t other :
       state.name.empty() ? std::vector<uint32_t>{} : ids()) {
    const auto its = load(other);
    if (other != state.dev_id && its && its->name == state.name &&
        is_there(other))
      return std::unexpected(
          Error::plain(EEXIST, fmt("--name {}: ublkb{} has this name",
                                   state.name, other))
              .hint(fmt("another name, or first ublk-bpf del -n {}", other)));
  }
  return write(state);
}

std::vector<std::string> StateStore::files() const {
  if (!fd_.valid()) return {};
  // Not by its path: a server has left the mounts.
  return names_at(fd_.get());
}

std::vector<uint32_t> StateStore::ids() const {
  std::vector<uint32_t> ids;
  for (const std::string& name : files())
    if (const auto id = id_of_file(name)) ids.push_back(*id);
  std::ranges::sort(ids);
  return ids;
}

std::vector<std::string> StateStore::other_files() const {
  auto names = files();
  std::erase_if(names, [](const std::string& name) {
    return id_of_file(name) || name == kLockFile || name == kHoldFile;
  });
  std::ranges::sort(names);
  return names;
}

Result<void> StateStore::remove_file(const std::string& name) const {
  if (::unlinkat(fd_.get(), name.c_str(), 0) != 0 && errno != ENOENT)
    return fail_sys(errno, "{}/{}: remove", dir_, name);
  return {};
}

Result<UniqueFd> StateStore::open_file(const std::string& name,
                                       int flags) const {
  if (!fd_.valid()) return fail_sys(ENOENT, "{}/{}: open", dir_, name);
  return TRY_IN(dir_, UniqueFd::open_at(fd_.get(), name, flags, 0600));
}

Result<UniqueFd> StateStore::hold_device(uint32_t dev_id,
                                         std::chrono::milliseconds wait) const {
  if (!fd_.valid()) return UniqueFd();
  // A byte of the file for each, beside the lock of the whole file, which is of
  // another kind (flock).
  UniqueFd fd = TRY_IN(
      dir_, UniqueFd::open_at(fd_.get(), kHoldFile, O_RDWR | O_CREAT, 0600));
  struct flock byte{};
  byte.l_type = F_WRLCK;
  byte.l_whence = SEEK_SET;
  byte.l_start = dev_id;
  byte.l_len = 1;
  const auto until = std::chrono::steady_clock::now() + wait;
  while (::fcntl(fd.get(), F_OFD_SETLK, &byte) != 0) {
    if (errno != EINTR && errno != EAGAIN && errno != EACCES)
      return fail_sys(errno, "{}/{}: lock", dir_, kHoldFile);
    if (std::chrono::steady_clock::now() > until)
      return fail(EBUSY, "another command is giving it a server");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return fd;
}

Result<UniqueFd> StateStore::hold(Hold how,
                                  std::chrono::milliseconds wait) const {
  if (!fd_.valid()) return UniqueFd();
  UniqueFd fd = TRY_IN(
      dir_, UniqueFd::open_at(fd_.get(), kHoldFile, O_RDWR | O_CREAT, 0600));
  const int wanted = (how == Hold::shared ? LOCK_SH : LOCK_EX) | LOCK_NB;
  const auto until = std::chrono::steady_clock::now() + wait;
  while (::flock(fd.get(), wanted) != 0) {
    if (errno != EINTR && errno != EWOULDBLOCK)
      return fail_sys(errno, "{}/{}: flock", dir_, kHoldFile);
    if (std::chrono::steady_clock::now() > until)
      return fail(EBUSY, "{}: {}", dir_,
                  how == Hold::shared
                      ? "orphans are still being looked for"
                      : "a device is still being added or recovered");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return fd;
}

Result<void> StateStore::change(
    uint32_t dev_id, const std::function<void(DeviceState&)>& with) const {
  if (!fd_.valid()) return {};
  const UniqueFd held = TRY(lock());
  auto state = load(dev_id);
  if (!state && state.error().code() == ENOENT) return {};
  if (!state) return std::unexpected(std::move(state).error());
  with(*state);
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
  TRY(remove_file(map_file_name(dev_id)));
  TRY(remove_file(udev_file_name(dev_id)));
  return remove_file(file_name(dev_id));
}

}  // namespace ublk
