// SPDX-License-Identifier: MIT
#include "device/bpf.h"

#include <stdlib.h>
#include <sys/sysmacros.h>
#include <ublk_bpf_maps.h>

#include <bit>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>

#include "device/device.h"
#include "device/device_stack.h"
#include "device/overlap.h"
#include "device/own_program.h"
#include "device/pins.h"
#include "device/track_program.h"
#include "device/users.h"
#include "prog/face.h"
#include "prog/object.h"
#include "sys/backing.h"
#include "sys/borrow.h"

namespace ublk {

namespace {

Error no_bpf(const Device& device, const FaceInfo& face) {
  const std::string name = device_name(device.info.dev_id);
  const std::string served = fmt("{} is still served, by its server", name);
  if (face.face == Face::none && face.has_kfunc)
    return Error::plain(EOPNOTSUPP,
                        fmt("{}: this kernel's ublk_drv has an earlier version "
                            "of the BPF part",
                            name))
        .hint(served + "; ublk-bpf probe tells how to get this one");
  if (face.face == Face::none)
    return Error::plain(EOPNOTSUPP,
                        name +
                            ": this kernel has no BPF part of ublk, neither "
                            "BPF_PROG_TYPE_UBLK nor the replacement "
                            "ublk_drv module")
        .hint(served + "; ublk-bpf probe tells how to get one");
  return Error::plain(EOPNOTSUPP, name + ": was added without BPF")
      .hint(fmt("{}; ublk-bpf del -n {}, and add it without --no-bpf", served,
                device.info.dev_id));
}

// `what` needs version 2 of the kernel's contract.
Error too_old(const Device& device, const std::string& what) {
  return Error::plain(EOPNOTSUPP,
                      fmt("{}: {}: this kernel's BPF part of ublk has version "
                          "{}, it takes version 2",
                          device_name(device.info.dev_id), what,
                          bpf_version(*device.bpf)))
      .hint("ublk-bpf probe tells how to get a newer one");
}

struct NewFlag {
  uint32_t flag;
  const char* option;
};
constexpr NewFlag kFlagsOfVersion2[] = {
    {UBLK_BPF_ATTACH_F_PASS_ERRORS, "--pass-errors"},
    {UBLK_BPF_ATTACH_F_REQUESTS, "--requests"}};

Result<void> check_version(const Device& device, uint32_t flags) {
  if (bpf_version(*device.bpf) >= 2) return {};
  for (const NewFlag& each : kFlagsOfVersion2)
    if (flags & each.flag) return std::unexpected(too_old(device, each.option));
  return {};
}

// What can be said without looking at the object.
Result<void> check_device(const Device& device, const FaceInfo& face,
                          const AttachRequest& request) {
  if (face.face == Face::none || !device.bpf)
    return std::unexpected(no_bpf(device, face));
  TRY(check_version(device, request.flags));
  const bool replace = request.flags & UBLK_BPF_ATTACH_F_REPLACE;
  if (device.bpf->prog_id && !replace)
    return std::unexpected(
        Error::plain(EBUSY,
                     fmt("{}: has a program attached, id {}",
                         device_name(request.dev_id), device.bpf->prog_id))
            .hint("--replace takes its place"));
  if (request.files.size() > UBLK_BPF_MAX_FILES)
    return fail(E2BIG, "{}: {} files, a program can have {} at most",
                device_name(request.dev_id), request.files.size(),
                UBLK_BPF_MAX_FILES);
  if (device.state_error && request.files.empty())
    return std::unexpected(*device.state_error);
  return {};
}

Result<void> check_file(const Device& device, const Backing& file) {
  const uint32_t dev_id = device.info.dev_id;
  const ublk_param_devt& devt = device.params.devt;
  if (file.is_block && file.rdev == makedev(devt.disk_major, devt.disk_minor))
    return fail(EINVAL, "{}: is {} itself, which cannot be its own file",
                file.path, device_name(dev_id));
  if (file.volatile_cache && !device.read_only() &&
      !(device.params.basic.attrs & UBLK_ATTR_VOLATILE_CACHE))
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: needs flushes, which the kernel does not send to "
                         "{}: it was added on a disk without a volatile cache",
                         file.path, device_name(dev_id)))
            .hint("add the device with --write-back"));
  if (file.direct && file.offset_align > device.block_bytes())
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: its direct I/O needs blocks of {} bytes, "
                                 "{} has blocks of {}",
                                 file.path, file.offset_align,
                                 device_name(dev_id), device.block_bytes()))
            .hint("--buffered, or add the device with --block-size"));
  return {};
}

// A file whose data comes back to the device through loop devices or device
// mapper. The kernel part refuses what it can see itself.
Result<void> check_ring(const Device& device, const StateStore& states,
                        const Backing& file) {
  const ublk_param_devt& devt = device.params.devt;
  // By its descriptor: what the path says now may be another file.
  const auto way = DeviceStack(states).way(
      file.fd.get(), makedev(devt.disk_major, devt.disk_minor));
  if (!way) return {};
  std::string through;
  for (const std::string& name : *way) through += " -> " + name;
  return std::unexpected(
      Error::plain(ELOOP, fmt("{}: is stored on {} itself:{}", file.path,
                              device_name(device.info.dev_id), through))
          .hint("no I/O of such a ring would ever end"));
}

// The file that the device's server has, be it through its own descriptor.
Result<Backing> open_own(const Device& device, size_t index,
                         const AttachRequest& request) {
  const TargetSpec& spec = device.state->target;
  const std::string& path = spec.files[index];
  BackingOptions options{.read_only = device.read_only(),
                         .buffered = request.buffered || spec.buffered};
  if (request.changed_file || index >= spec.identities.size())
    return Backing::open(path, options);
  const FileIdentity& identity = spec.identities[index];
  const UniqueFd borrowed = borrow_file(device.server ? device.server->pid : 0,
                                        identity, !device.read_only());
  if (borrowed.valid()) options.again = borrowed.get();
  Backing file = TRY(Backing::open(path, options));
  TRY(file.check_is(identity));
  return file;
}

// What is beyond its end would be I/O errors.
Result<void> check_size(const Device& device, const Backing& file,
                        uint64_t offset) {
  if (file.size_bytes >= offset &&
      file.size_bytes - offset >= device.size_bytes())
    return {};
  return fail(EINVAL, "{}: has {} bytes, {} needs {} from {} on", file.path,
              file.size_bytes, device_name(device.info.dev_id),
              device.size_bytes(), offset);
}

// A leg that has failed is not used, and its disk may be gone: one that is in
// use takes its place.
size_t leg_in_use(const TargetSpec& spec, size_t index) {
  const auto other = static_cast<size_t>(std::countr_one(spec.failed_legs));
  return spec.failed_legs >> index & 1 ? other : index;
}

Result<std::vector<Backing>> open_files(const Device& device,
                                        const StateStore& states,
                                        const AttachRequest& request,
                                        uint64_t offset) {
  std::vector<Backing> files;
  for (const auto& path : request.files)
    files.push_back(TRY(Backing::open(path, {.read_only = device.read_only(),
                                             .buffered = request.buffered})));
  if (request.files.empty() && device.state)
    for (size_t i = 0; i < device.state->target.files.size(); i++) {
      files.push_back(
          TRY(open_own(device, leg_in_use(device.state->target, i), request)));
      TRY(check_size(device, files.back(), offset));
    }
  for (const Backing& file : files) {
    TRY(check_file(device, file));
    TRY(check_ring(device, states, file));
  }
  return files;
}

// Where the program has the device's first byte in its file.
uint64_t offset_of(const Knobs& knobs, const Device& device) {
  uint64_t offset = device.state ? device.state->target.offset_bytes : 0;
  const auto values = knobs.values();
  if (const auto it = values.find("offset"); it != values.end())
    std::from_chars(it->second.data(), it->second.data() + it->second.size(),
                    offset);
  return offset;
}

Result<void> set_knobs(Knobs& knobs, const Device& device,
                       const AttachRequest& request) {
  bool offset_given = false;
  for (const auto& [name, value] : request.knobs) {
    offset_given |= name == "offset";
    TRY_IN(request.object, knobs.set(name, value));
  }
  // The target's own file, so from where the target has its first byte.
  if (!offset_given && request.files.empty() && device.state &&
      device.state->target.offset_bytes && knobs.get("offset"))
    TRY_IN(request.object,
           knobs.set("offset", fmt("{}", device.state->target.offset_bytes)));
  return {};
}

// The bytes of a clone's files are not the device's.
Result<void> refuse_on_clone(const ProgramObject& object, const Device& device,
                             const AttachRequest& request) {
  if (!device.state || !is_clone(device.state->target)) return {};
  if (device.state->clone_maps.bits)
    return std::unexpected(
        Error::plain(EBUSY, fmt("{}: is a clone, whose server has attached its "
                                "program",
                                device_name(device.info.dev_id)))
            .hint("add it with --no-bpf to have none"));
  if (!request.files.empty()) return {};
  return std::unexpected(
      Error::plain(EINVAL,
                   fmt("{}: is not a program of a clone, which {} is: it would "
                       "destroy its layer",
                       object.path(), device_name(device.info.dev_id)))
          .hint("--file names other files"));
}

// Its server and the program of a mirror have the map in common that says which
// legs have failed. Without it a program would read what is out of date.
Result<void> share_legs(ProgramObject& object, const Device& device,
                        const AttachRequest& request) {
  const std::string name = device_name(device.info.dev_id);
  const bool mirror = device.state && is_mirror(device.state->target);
  const bool knows = object.has_map(UBLK_BPF_MIRROR_MAP);
  if (!mirror && !knows) return {};
  if (!mirror)
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: is the program of a mirror, which {} is "
                                 "not: its server would not know of a leg that "
                                 "has failed",
                                 object.path(), name))
            .hint("ublk-bpf add -t mirror"));
  if (!knows && !request.files.empty()) return {};
  if (!knows)
    return std::unexpected(
        Error::plain(EINVAL, fmt("{}: is not a program of a mirror, which {} "
                                 "is: its legs would differ",
                                 object.path(), name))
            .hint("mirror.bpf.o is one; --file names other files"));
  if (!device.state->legs_map)
    return fail(EOPNOTSUPP, "{}: its server could not make the map {}", name,
                UBLK_BPF_MIRROR_MAP);
  const auto map = open_map(device.state->legs_map);
  if (!map && map.error().code() == ENOENT)
    return std::unexpected(
        Error::plain(ESRCH,
                     fmt("{}: has no server, which a program of a mirror "
                         "is attached with",
                         name))
            .hint(fmt("ublk-bpf recover -n {}", device.info.dev_id)));
  if (!map) return std::unexpected(Error(map.error()).in(name));
  return object.use_map(TRY_IN(name, map_info(map->get())));
}

// The kernel's answer comes after it has done its work in two cases.
Result<void> explain_done(Control& control, uint32_t dev_id, Error error,
                          std::string_view what) {
  if (error.code() == EINTR)
    return std::unexpected(std::move(error).hint(
        fmt("{}; what the program before it has in hand goes on, see "
            "`retiring` of ublk-bpf list -n {} --json",
            what, dev_id)));
  const auto info = control.bpf_info(dev_id);
  return std::unexpected(std::move(error).hint(
      fmt("{}, but the files of the program before it could not be synced "
          "({} so far): what was written last may be lost, and a flush of the "
          "device will say so once",
          what, info ? info->sync_failed : 0)));
}

Error explain_attach(Error error, const AttachRequest& request) {
  switch (error.code()) {
    case ELOOP:
      return std::move(error).hint(
          fmt("one of its files is the device itself or leads back to it, or "
              "there are more than {} ublk devices one above the other",
              UBLK_BPF_MAX_DEPTH));
    case ETXTBSY: {
      const BlockUsers users = users_of(request.dev_id);
      return std::move(error).hint(
          fmt("one of its files needs stable pages, as its data is checksummed "
              "or compressed: attach while nobody has the device open or "
              "mounted{}",
              users.empty() ? "" : "; it is " + users.text()));
    }
    case EBUSY:
      return std::move(error).hint(
          "a program was attached meanwhile, --replace takes its place");
    case ENODEV:
      return std::move(error).hint("it is not started, or being stopped");
    case EINVAL:
      return std::move(error).hint(
          fmt("the kernel refuses {} or one of its files: what it needs for "
              "direct I/O may be more than the device promises (--buffered)",
              request.object));
    default:
      return error;
  }
}

std::string absolute(const std::string& path) {
  std::unique_ptr<char, decltype(&::free)> full(
      ::realpath(path.c_str(), nullptr), &::free);
  return full ? full.get() : path;
}

// Unless another command has been at it since: that one notes what it did. The
// kernel is asked while the states are locked, so the last one notes last.
Result<void> note_attached(Control& control, const StateStore& states,
                           uint32_t dev_id,
                           std::optional<AttachedState> attached) {
  const uint32_t prog_id = attached ? attached->prog_id : 0;
  auto noted = states.change(dev_id, [&](DeviceState& state) {
    const auto info = control.bpf_info(dev_id);
    if (info && info->prog_id == prog_id) state.attached = std::move(attached);
  });
  // What cannot be read cannot be changed: list says so, and the program is
  // attached all the same.
  if (!noted && noted.error().code() == EPROTO) return {};
  return noted;
}

Pins pins_before(const Device& device) {
  return device.state ? device.state->pins() : Pins{};
}

Result<void> keep_maps(ProgramObject& object, const Device& device) {
  const std::string name = device_name(device.info.dev_id);
  if (!device.bpf->prog_id)
    return fail(ENOENT, "{}: has no program attached, whose maps could be kept",
                name);
  const auto maps = TRY_IN(name, maps_of_attached(*device.bpf));
  return object.keep_maps(maps);
}

// Maps that are kept stay where they are pinned.
Result<std::optional<NewPins>> make_pins(const ProgramObject& object,
                                         const Device& device,
                                         const AttachRequest& request) {
  std::string dir = request.pin_dir;
  if (dir.empty() && request.keep_maps && !pins_before(device).dir.empty())
    dir = std::filesystem::path(pins_before(device).dir).parent_path();
  if (dir.empty()) return std::nullopt;
  const auto maps = TRY(object.maps());
  return TRY_IN("--pin-maps", NewPins::create(dir, request.dev_id, maps));
}

}  // namespace

Result<std::vector<MapInfo>> maps_of_attached(const ublk_bpf_info& info) {
  const uint32_t halves[] = {info.prog_id, info.complete_id};
  return maps_of_program_ids(halves);
}

Result<std::chrono::nanoseconds> attach_program(Control& control,
                                                const StateStore& states,
                                                AttachRequest request) {
  request.object = TRY(find_object(request.object));
  const Device device = TRY(describe(control, states, request.dev_id));
  const FaceInfo face = detect_face();
  TRY(check_device(device, face, request));
  ProgramObject object = TRY(ProgramObject::open(request.object, face));
  const std::string program = TRY(object.choose(request.program));
  if (object.completes(program) && bpf_version(*device.bpf) < 2)
    return std::unexpected(
        too_old(device, fmt("completion program of {}", program)));
  TRY(set_knobs(object.knobs(), device, request));
  const std::vector<Backing> files = TRY(
      open_files(device, states, request, offset_of(object.knobs(), device)));
  // Afterwards they cannot be read any more.
  AttachedState attached{.prog_id = 0,
                         .program = program,
                         .object = absolute(request.object),
                         .files = {},
                         .knobs = object.knobs().values()};
  if (request.keep_maps) TRY(keep_maps(object, device));
  TRY(refuse_on_clone(object, device, request));
  TRY(share_legs(object, device, request));
  if (device.state) TRY(share_track(object, *device.state));
  if (!request.files.empty()) {
    for (const Backing& file : files) {
      attached.files.push_back(file.path);
      attached.identities.push_back(file.identity);
    }
    if (!request.shared)
      TRY_IN("--file", check_program_files(control, states, device, attached));
  }
  TRY(object.load(program));
  auto pins = TRY(make_pins(object, device, request));

  ublk_bpf_attach arg{};
  arg.prog_fd = object.fd();
  arg.flags = request.flags;
  if (object.complete_fd() >= 0) {
    arg.complete_fd = object.complete_fd();
    arg.flags |= UBLK_BPF_ATTACH_F_COMPLETE;
  }
  for (const Backing& file : files) {
    arg.fds[arg.nr_files++] = file.fd.get();
    if (request.files.empty()) attached.files.push_back(file.path);
  }
  attached.prog_id = TRY(object.id());
  const auto begin = std::chrono::steady_clock::now();
  auto done = attach_if_unused(control, request.dev_id, arg, [&] {
    return !users_of(request.dev_id).lasting.empty();
  });
  const auto took = std::chrono::steady_clock::now() - begin;
  if (!done) {
    const auto info = control.bpf_info(request.dev_id);
    if (!info || info->prog_id != attached.prog_id)
      return std::unexpected(explain_attach(std::move(done).error(), request));
  }
  if (pins) attached.pins = TRY_IN("the program is attached", pins->publish());
  remove_pins(pins_before(device), attached.pins);
  TRY(note_attached(control, states, request.dev_id, std::move(attached)));
  if (!done)
    TRY(explain_done(control, request.dev_id, std::move(done).error(),
                     "the program is attached"));
  return took;
}

Result<void> detach_program(Control& control, const StateStore& states,
                            uint32_t dev_id) {
  const Device device = TRY(describe(control, states, dev_id));
  if (!device.bpf) return std::unexpected(no_bpf(device, detect_face()));
  if (device.state && device.state->clone_maps.bits)
    return std::unexpected(
        Error::plain(EBUSY, fmt("{}: is a clone, and its map goes with its "
                                "program",
                                device_name(dev_id)))
            .hint(fmt("ublk-bpf del -n {}, and add it with --no-bpf", dev_id)));
  if (device.state && device.state->track_maps.bits)
    return std::unexpected(
        Error::plain(EBUSY, fmt("{}: tracks what is written, and what it has "
                                "noted goes with its program",
                                device_name(dev_id)))
            .hint(fmt("ublk-bpf del -n {}, and add it with --no-bpf", dev_id)));
  auto done = control.detach_bpf(dev_id);
  if (!done && done.error().code() == ENOENT)
    return fail(ENOENT, "{}: has no program attached", device_name(dev_id));
  if (!done) {
    const auto info = control.bpf_info(dev_id);
    if (!info || info->prog_id) return done;
  }
  remove_pins(pins_before(device));
  TRY(note_attached(control, states, dev_id, std::nullopt));
  if (!done)
    return explain_done(control, dev_id, std::move(done).error(),
                        "the program is detached");
  return {};
}

Result<void> drain_program(Control& control, const StateStore& states,
                           uint32_t dev_id) {
  const Device device = TRY(describe(control, states, dev_id));
  if (!device.bpf) return std::unexpected(no_bpf(device, detect_face()));
  if (bpf_version(*device.bpf) < 2)
    return std::unexpected(too_old(device, "drain"));
  auto done = control.drain_bpf(dev_id);
  if (!done && done.error().code() == ENOENT)
    return fail(ENOENT, "{}: has no program attached", device_name(dev_id));
  return done;
}

// The first one did not say.
uint32_t bpf_version(const ublk_bpf_info& info) {
  return info.version ? info.version : 1;
}

std::vector<std::string> attach_flag_names(uint32_t flags) {
  constexpr std::pair<uint32_t, const char*> kNames[] = {
      {UBLK_BPF_ATTACH_F_NO_INLINE, "no_inline"},
      {UBLK_BPF_ATTACH_F_INLINE_REG, "inline_reg"},
      {UBLK_BPF_ATTACH_F_COMPLETE, "complete"},
      {UBLK_BPF_ATTACH_F_PASS_ERRORS, "pass_errors"},
      {UBLK_BPF_ATTACH_F_REQUESTS, "requests"}};
  std::vector<std::string> names;
  for (const auto& [flag, name] : kNames)
    if (flags & flag) names.emplace_back(name);
  return names;
}

}  // namespace ublk
