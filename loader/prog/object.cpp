// SPDX-License-Identifier: MIT
#include "prog/object.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "prog/libbpf_log.h"
#include "sys/unique_fd.h"

namespace ublk {

namespace {

constexpr const char* kSection = "ublk";
constexpr const char* kCompleteSection = "ublk/complete";
constexpr const char* kCompleteSuffix = "_complete";
constexpr const char* kOpsStruct = "ublk_bpf_sqe_ops";
// The verifier keeps the end of a longer log, which is the part that matters.
constexpr size_t kLogBytes = 64 << 10;

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string join_lines(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}

// What is missing in this kernel, by libbpf's own words; "" if nothing is.
std::string missing_in_kernel(const std::vector<std::string>& lines) {
  for (const auto& line : lines)
    for (std::string_view sign :
         {"not found in kernel", "Cannot find member", "Cannot find type",
          "not found in vmlinux", "failed to find kernel BTF type"})
      if (line.contains(sign)) return line;
  return {};
}

bool needs_newer_kernel(std::string_view cause) {
  for (std::string_view sign :
       {"unknown func", "invalid func", "calling invalid kernel function",
        "kernel function call is not supported"})
    if (cause.contains(sign)) return true;
  return false;
}

// The struct that a variable of the object is; "" if that cannot be told.
std::string struct_of(const bpf_object* object, const std::string& variable) {
  const btf* types = bpf_object__btf(object);
  const int id =
      types ? btf__find_by_name_kind(types, variable.c_str(), BTF_KIND_VAR)
            : -1;
  if (id < 0) return {};
  const btf_type* type =
      btf__type_by_id(types, btf__type_by_id(types, id)->type);
  return type ? btf__name_by_offset(types, type->name_off) : "";
}

int register_sections(uint32_t prog_type) {
  for (const char* section : {kSection, kCompleteSection}) {
    const int handler = libbpf_register_prog_handler(
        section, static_cast<bpf_prog_type>(prog_type),
        static_cast<bpf_attach_type>(0), nullptr);
    if (handler < 0) return handler;
  }
  return 0;
}

constexpr const char* kNewerHint =
    "the program needs a newer kernel than this one; ublk-bpf probe tells "
    "what this one has";

Error load_error(const std::string& object, const std::string& program,
                 int code, const std::string& log, const LibbpfLog& libbpf) {
  const std::string where = fmt("{}: program {}", object, program);
  if (const auto cause = verifier_cause(log); !cause.empty()) {
    // ENOSPC is about the log only.
    auto error =
        Error::plain(code == ENOSPC ? EINVAL : code,
                     fmt("{}: refused by the verifier: {}", where, cause))
            .detail(log);
    return needs_newer_kernel(cause) ? std::move(error).hint(kNewerHint)
                                     : error;
  }
  if (const auto missing = missing_in_kernel(libbpf.lines()); !missing.empty())
    return Error::plain(code, fmt("{}: {}", where, missing))
        .hint(kNewerHint)
        .detail(join_lines(libbpf.lines()));
  auto error = Error::sys(code, where + ": load");
  if (code == EPERM || code == EACCES)
    error = std::move(error).hint("this needs root (CAP_BPF, CAP_SYS_ADMIN)");
  else if (!libbpf.lines().empty())
    error = std::move(error).hint(libbpf.lines().front());
  return std::move(error).detail(join_lines(libbpf.lines()));
}

}  // namespace

Result<void> check_object_file(const std::string& path) {
  const UniqueFd fd = TRY(UniqueFd::open(path, O_RDONLY));
  struct stat st{};
  if (::fstat(fd.get(), &st) == 0 && S_ISDIR(st.st_mode))
    return fail(EISDIR, "{}: is a directory, not a BPF object", path);
  Elf64_Ehdr header{};
  const ssize_t got = ::read(fd.get(), &header, sizeof(header));
  if (got < 0) return fail_sys(errno, "{}: read", path);
  if (got < SELFMAG || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return std::unexpected(
        Error::plain(ENOEXEC, path + ": is not an ELF file")
            .hint("compile the program: clang -target bpf -g -O2, or "
                  "Makefile.bpf"));
  if (got < static_cast<ssize_t>(sizeof(header)) ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_BPF)
    return std::unexpected(
        Error::plain(ENOEXEC, path + ": is an ELF file, but not for BPF")
            .hint("compile the program with clang -target bpf"));
  return {};
}

std::string verifier_cause(const std::string& log) {
  std::istringstream in(log);
  std::string cause;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("processed ") ||
        line.starts_with("verification time") ||
        line.starts_with("stack depth") || line.starts_with("-- "))
      continue;
    if (line.find_first_not_of(" \t") != std::string::npos) cause = line;
  }
  return cause;
}

void ProgramObject::Close::operator()(bpf_object* object) const {
  bpf_object__close(object);
}

ProgramObject::ProgramObject(std::string path, const FaceInfo& face,
                             bpf_object* object)
    : path_(std::move(path)), face_(face), object_(object) {
  bpf_program* program;
  bpf_object__for_each_program(
      program,
      object) if (std::string_view(bpf_program__section_name(program)) ==
                  kSection) programs_.emplace_back(bpf_program__name(program));
  bpf_map* map;
  bpf_object__for_each_map(map, object) {
    if (!std::string_view(bpf_map__name(map)).ends_with(".rodata")) continue;
    size_t size = 0;
    auto* bytes = static_cast<std::byte*>(bpf_map__initial_value(map, &size));
    if (bytes && bpf_object__btf(object))
      knobs_ = Knobs::find(bpf_object__btf(object), {bytes, size});
  }
}

Result<ProgramObject> ProgramObject::open(const std::string& path,
                                          const FaceInfo& face) {
  TRY(check_object_file(path));
  if (face.face == Face::program_type) {
    // Known to no released libbpf. Once per process is enough.
    static const int handler = register_sections(face.prog_type);
    if (handler < 0)
      return fail_sys(errno_of(handler), "section '{}' for libbpf", kSection);
  }
  const LibbpfLog log;
  bpf_object* object = bpf_object__open_file(path.c_str(), nullptr);
  if (!object) {
    auto error = Error::plain(ENOEXEC, path +
                                           ": is not a BPF object that libbpf "
                                           "can read");
    if (!log.lines().empty())
      error = std::move(error).hint(log.lines().front());
    if (log.lines().size() > 1)
      error = std::move(error).detail(join_lines(log.lines()));
    return std::unexpected(std::move(error));
  }
  return ProgramObject(path, face, object);
}

Result<std::string> ProgramObject::choose(const std::string& name) const {
  if (programs_.empty())
    return std::unexpected(
        Error::plain(ENOENT, path_ + ": has no ublk program")
            .hint("UBLK_BPF(name) of ublk/ublk.bpf.h makes one"));
  if (name.empty()) {
    if (programs_.size() == 1) return programs_.front();
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: has {} ublk programs", path_, programs_.size()))
            .hint("name one with --prog: " + join(programs_)));
  }
  for (const auto& program : programs_)
    if (program == name) return name;
  return std::unexpected(
      Error::plain(ENOENT, fmt("{}: has no ublk program '{}'", path_, name))
          .hint("there are: " + join(programs_)));
}

bool ProgramObject::completes(const std::string& program) const {
  const bpf_program* half = bpf_object__find_program_by_name(
      object_.get(), (program + kCompleteSuffix).c_str());
  return half &&
         std::string_view(bpf_program__section_name(half)) == kCompleteSection;
}

// Lets one half of a program be loaded, as this kernel takes it.
Result<bpf_program*> ProgramObject::select_half(const std::string& half) {
  bpf_object* object = object_.get();
  const bool struct_ops = face_.face == Face::struct_ops;
  bpf_map* map = nullptr;
  if (struct_ops) {
    map = bpf_object__find_map_by_name(object, (half + "_ops").c_str());
    if (map && bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS) map = nullptr;
  }
  const std::string name = struct_ops ? half + "_so" : half;
  bpf_program* chosen = bpf_object__find_program_by_name(object, name.c_str());
  if (!chosen || (struct_ops && !map))
    return std::unexpected(
        Error::plain(ENOENT, fmt("{}: program {} has no struct_ops part, which "
                                 "this kernel's ublk_drv needs",
                                 path_, half))
            .hint("define it with UBLK_BPF(name) of ublk/ublk.bpf.h"));
  if (const std::string ops = struct_of(object, half + "_ops");
      map && ops != kOpsStruct)
    return std::unexpected(
        Error::plain(EINVAL,
                     fmt("{}: program {} is of struct {}, this kernel's "
                         "ublk_drv takes struct {}",
                         path_, half, ops, kOpsStruct))
            .hint("compile it again with this version's ublk/ublk.bpf.h"));
  if (map) bpf_map__set_autocreate(map, true);
  bpf_program__set_autoload(chosen, true);
  return chosen;
}

Result<std::vector<bpf_program*>> ProgramObject::select(
    const std::string& program) {
  bpf_object* object = object_.get();
  bpf_program* each;
  bpf_object__for_each_program(each, object)
      bpf_program__set_autoload(each, false);
  bpf_map* map;
  // libbpf 1.5 heeds the "?" of the section for its first map only.
  bpf_object__for_each_map(
      map, object) if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
      bpf_map__set_autocreate(map, false);
  std::vector<bpf_program*> halves = {TRY(select_half(program))};
  if (completes(program))
    halves.push_back(TRY(select_half(program + kCompleteSuffix)));
  return halves;
}

namespace {

MapInfo shape_of(const bpf_map* map) {
  return {.name = bpf_map__name(map),
          .type = bpf_map__type(map),
          .key_bytes = bpf_map__key_size(map),
          .value_bytes = bpf_map__value_size(map),
          .max_entries = bpf_map__max_entries(map),
          .flags = bpf_map__map_flags(map)};
}

// As the kernel cuts it off. The variables of an object are named for its
// file, which the next version may have another name for.
std::string name_in_kernel(const std::string& name) {
  for (const char* section : {".bss", ".data"})
    if (name.ends_with(section)) return section;
  return name.substr(0, BPF_OBJ_NAME_LEN - 1);
}

bool same_shape(const MapInfo& one, const MapInfo& other) {
  return one.type == other.type && one.key_bytes == other.key_bytes &&
         one.value_bytes == other.value_bytes &&
         one.max_entries == other.max_entries && one.flags == other.flags;
}

}  // namespace

bpf_map* ProgramObject::find_map(const std::string& name) const {
  bpf_map* map;
  bpf_object__for_each_map(map, object_.get()) {
    if (bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS &&
        name_in_kernel(bpf_map__name(map)) == name_in_kernel(name))
      return map;
  }
  return nullptr;
}

bool ProgramObject::has_map(const std::string& name) const {
  return find_map(name) != nullptr;
}

Result<void> ProgramObject::use_map(const MapInfo& live) {
  bpf_map* mine = find_map(live.name);
  if (!mine)
    return fail(ENOENT, "{}: has no map {}, which is there (id {}, {})", path_,
                live.name, live.id, map_shape(live));
  const MapInfo shape = shape_of(mine);
  if (!same_shape(shape, live)) {
    const bool flags = shape.flags != live.flags;
    return fail(
        EINVAL, "{}: map {} is {}{}; map {} that is there, id {}, is {}{}",
        path_, shape.name, map_shape(shape),
        flags ? fmt(", flags {:#x}", shape.flags) : "", live.name, live.id,
        map_shape(live), flags ? fmt(", flags {:#x}", live.flags) : "");
  }
  const UniqueFd fd = TRY_IN(path_, open_map(live.id));
  if (const int code = errno_of(bpf_map__reuse_fd(mine, fd.get())))
    return fail_sys(code, "{}: taking over map {}, id {}", path_, live.name,
                    live.id);
  return {};
}

Result<void> ProgramObject::size_map(const std::string& name,
                                     uint32_t entries) {
  bpf_map* mine = find_map(name);
  if (!mine) return fail(ENOENT, "{}: has no map {}", path_, name);
  if (const int code = errno_of(bpf_map__set_max_entries(mine, entries)))
    return fail_sys(code, "{}: map {} of {} entries", path_, name, entries);
  return {};
}

Result<void> ProgramObject::keep_maps(std::span<const MapInfo> maps) {
  for (const MapInfo& live : maps) {
    if (live.is_constants()) continue;
    if (auto used = use_map(live); !used)
      return std::unexpected(std::move(used).error().hint(
          "without --keep-maps the program gets maps of its own, and those "
          "that are there are let go"));
  }
  return {};
}

Result<void> ProgramObject::load(const std::string& program) {
  const auto halves = TRY(select(program));
  // libbpf stops at the first that is refused, and only that one has a log.
  std::vector<std::string> logs(halves.size(), std::string(kLogBytes, '\0'));
  for (size_t i = 0; i < halves.size(); i++)
    bpf_program__set_log_buf(halves[i], logs[i].data(), logs[i].size());
  const LibbpfLog libbpf;
  const int ret = bpf_object__load(object_.get());
  for (bpf_program* half : halves) bpf_program__set_log_buf(half, nullptr, 0);
  if (const int code = errno_of(ret)) {
    const bool of_completion = halves.size() > 1 && !logs[0][0] && logs[1][0];
    std::string& log = logs[of_completion ? 1 : 0];
    log.resize(std::strlen(log.c_str()));
    // Its beginning then is in the middle of a line.
    if (code == ENOSPC) log.erase(0, log.find('\n') + 1);
    return std::unexpected(
        load_error(path_, program + (of_completion ? kCompleteSuffix : ""),
                   code, log, libbpf));
  }
  loaded_ = halves[0];
  complete_ = halves.size() > 1 ? halves[1] : nullptr;
  return {};
}

int ProgramObject::fd() const {
  return loaded_ ? bpf_program__fd(loaded_) : -1;
}

int ProgramObject::complete_fd() const {
  return complete_ ? bpf_program__fd(complete_) : -1;
}

Result<std::vector<MapInfo>> ProgramObject::maps() const {
  std::vector<int> halves = {fd()};
  if (complete_fd() >= 0) halves.push_back(complete_fd());
  return TRY_IN(path_, maps_of_programs(halves));
}

Result<bpf_prog_info> ProgramObject::info_of(int prog_fd) const {
  bpf_prog_info info{};
  uint32_t len = sizeof(info);
  const int ret = bpf_prog_get_info_by_fd(prog_fd, &info, &len);
  if (const int code = errno_of(ret))
    return fail_sys(code, "{}: asking what the program is", path_);
  return info;
}

Result<uint32_t> ProgramObject::id() const { return TRY(info_of(fd())).id; }

Result<uint32_t> ProgramObject::verified_insns() const {
  uint32_t insns = TRY(info_of(fd())).verified_insns;
  if (complete_) insns += TRY(info_of(complete_fd())).verified_insns;
  return insns;
}

}  // namespace ublk
