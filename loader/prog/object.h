// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "prog/face.h"
#include "prog/knobs.h"
#include "prog/maps.h"
#include "sys/error.h"

struct bpf_object;
struct bpf_map;
struct bpf_program;
struct bpf_prog_info;

namespace ublk {

// An object file with ublk programs, open and perhaps loaded. Destruction
// closes its descriptors: a program that is attached lives on in the kernel.
class ProgramObject {
 public:
  // ENOEXEC: not an ELF file, or not for BPF.
  static Result<ProgramObject> open(const std::string& path,
                                    const FaceInfo& face);

  const std::string& path() const { return path_; }
  // Names of its ublk programs, as UBLK_BPF(name) has them.
  const std::vector<std::string>& programs() const { return programs_; }
  // `name` if there is such a program; "" if there is only one.
  // ENOENT: not there, or none at all. EINVAL: several and none named.
  Result<std::string> choose(const std::string& name) const;

  // Whether it has a completion half, UBLK_BPF_COMPLETE(name).
  bool completes(const std::string& program) const;

  Knobs& knobs() { return knobs_; }

  // Before it is loaded: its map of this name is to be this one, which is
  // there already. EINVAL: it is of another type or size. ENOENT: it has none.
  bool has_map(const std::string& name) const;
  Result<void> use_map(const MapInfo& live);
  // Before use_map(), where it is not for the program to say: how many entries
  // its map has.
  Result<void> size_map(const std::string& name, uint32_t entries);
  // All of a program's, whose state this one is to go on with; but its
  // constants are its own.
  Result<void> keep_maps(std::span<const MapInfo> maps);

  // Verifies and loads one program, with its completion half if it has one. A
  // refusal has the verifier's reason in its line and the whole log as its
  // detail.
  Result<void> load(const std::string& program);
  // Of the loaded program.
  int fd() const;
  Result<uint32_t> id() const;
  // Of its completion half; -1 if there is none.
  int complete_fd() const;
  // How many instructions the verifier has followed, in both halves: what
  // loading costs, and what has a limit of 1,000,000 for each half.
  Result<uint32_t> verified_insns() const;
  // That the loaded program and its completion half use.
  Result<std::vector<MapInfo>> maps() const;

 private:
  struct Close {
    void operator()(bpf_object* object) const;
  };
  ProgramObject(std::string path, const FaceInfo& face, bpf_object* object);

  // The programs to be loaded, the completion half last.
  Result<std::vector<bpf_program*>> select(const std::string& program);
  Result<bpf_program*> select_half(const std::string& half);
  bpf_map* find_map(const std::string& name) const;
  Result<bpf_prog_info> info_of(int prog_fd) const;

  std::string path_;
  FaceInfo face_;
  std::unique_ptr<bpf_object, Close> object_;
  std::vector<std::string> programs_;
  Knobs knobs_;
  bpf_program* loaded_ = nullptr;
  bpf_program* complete_ = nullptr;
};

// Whether a file can be a BPF object at all, of which libbpf says only that its
// format is wrong. ENOEXEC: not an ELF file, or not for BPF.
Result<void> check_object_file(const std::string& path);

// What a verifier's log says went wrong: its last line before the statistics.
std::string verifier_cause(const std::string& log);

}  // namespace ublk
