// SPDX-License-Identifier: MIT
//
// check: what is in a program's object, and what this kernel's verifier says of
// it. No device is needed, and nothing is attached.

#include <cerrno>
#include <optional>
#include <set>

#include "cli/author_commands.h"
#include "cli/command_line.h"
#include "cli/json.h"
#include "cli/output.h"
#include "device/own_program.h"
#include "prog/object.h"
#include "prog/scan.h"
#include "sys/names.h"

namespace ublk::cli {

namespace {

struct Verdict {
  std::string program;
  bool completes = false;
  std::optional<Error> error;  // why it is refused
  std::set<QueuedSqe> queued{};
  std::vector<MapInfo> maps{};
  uint32_t verified_insns = 0;
};

struct Checked {
  std::string object;
  Face face = Face::none;
  std::vector<std::pair<std::string, std::string>> knobs{};  // name and type
  std::map<std::string, std::string> values{};
  std::vector<Verdict> verdicts{};
};

Result<void> set_knobs(ProgramObject& object, const AttachRequest& request) {
  for (const auto& [name, value] : request.knobs)
    TRY_IN(object.path(), object.knobs().set(name, value));
  return {};
}

// Each in an object of its own: one that is refused does not spoil the others.
Result<Verdict> verify(const AttachRequest& request, const FaceInfo& face,
                       const std::string& program) {
  auto object = TRY(ProgramObject::open(request.object, face));
  TRY(set_knobs(object, request));
  Verdict verdict{.program = program,
                  .completes = object.completes(program),
                  .error = std::nullopt};
  // Of code that cannot be followed, anything is possible.
  verdict.queued = scan_queued(request.object, program)
                       .value_or(std::set<QueuedSqe>{QueuedSqe{}});
  if (face.face == Face::none) return verdict;
  if (auto loaded = object.load(program); !loaded) {
    verdict.error = std::move(loaded).error();
    return verdict;
  }
  if (auto maps = object.maps()) verdict.maps = std::move(*maps);
  if (auto insns = object.verified_insns()) verdict.verified_insns = *insns;
  return verdict;
}

Result<Checked> check_object(AttachRequest request) {
  request.object = TRY(find_object(request.object));
  const FaceInfo face = detect_face();
  auto object = TRY(ProgramObject::open(request.object, face));
  TRY(set_knobs(object, request));
  Checked checked{.object = request.object, .face = face.face};
  for (const Knob& knob : object.knobs().all())
    checked.knobs.emplace_back(knob.name, knob_type(knob));
  checked.values = object.knobs().values();
  for (const std::string& program : object.programs())
    checked.verdicts.push_back(TRY(verify(request, face, program)));
  if (checked.verdicts.empty())
    return std::unexpected(Error::plain(ENOENT, fmt("{}: has no ublk program",
                                                    shown_name(request.object)))
                               .hint("UBLK_BPF(name) makes one"));
  return checked;
}

json queued_json(const std::set<QueuedSqe>& queued) {
  json all = json::array();
  for (const auto& [opcode, file] : queued)
    all.push_back({{"opcode", opcode ? json(opcode_name(*opcode)) : json()},
                   {"file", file ? json(*file) : json()}});
  return all;
}

json to_json(const Checked& checked) {
  json knobs = json::array();
  for (const auto& [name, type] : checked.knobs)
    knobs.push_back({{"name", name},
                     {"type", type},
                     {"value", json::parse(checked.values.at(name))}});
  json programs = json::array();
  for (const Verdict& verdict : checked.verdicts) {
    json maps = json::array();
    for (const MapInfo& map : verdict.maps)
      maps.push_back({{"name", map.name}, {"shape", map_shape(map)}});
    const bool asked = checked.face != Face::none;
    programs.push_back(
        {{"name", verdict.program},
         {"completes", verdict.completes},
         {"accepted", asked ? json(!verdict.error) : json(nullptr)},
         {"error", verdict.error
                       ? json::parse(error_json(*verdict.error))["error"]
                       : json(nullptr)},
         {"verified_insns", verdict.verified_insns},
         {"queues", queued_json(verdict.queued)},
         {"maps", maps}});
  }
  return {{"object", checked.object},
          {"face", face_name(checked.face)},
          {"knobs", knobs},
          {"programs", programs}};
}

void print(const Checked& checked) {
  for (const auto& [name, type] : checked.knobs)
    say(fmt("knob {}: {}, {}", name, type, checked.values.at(name)));
  for (const Verdict& verdict : checked.verdicts) {
    const std::string what =
        fmt("program {}{}", verdict.program,
            verdict.completes ? " with a completion program" : "");
    for (const MapInfo& map : verdict.maps)
      say(fmt("map {} of {}: {}", map.name, verdict.program, map_shape(map)));
    say(fmt("program {} queues {}", verdict.program,
            queued_text(verdict.queued)));
    if (checked.face == Face::none)
      say(fmt("{}: this kernel has no BPF part of ublk to verify it", what));
    else if (!verdict.error)
      say(fmt("{}: accepted, as {}; the verifier followed {} instructions",
              what, face_name(checked.face), verdict.verified_insns));
  }
}

}  // namespace

void define_check(Arguments& command, Options& options) {
  command.text("object", options.attach.object, "OBJ",
               "compiled program, x.bpf.o, or the name of an installed one",
               true);
  command.texts("--set", options.attach.knobs, "KNOB=VALUE",
                "value of a const volatile variable: the verifier leaves out "
                "what it makes impossible");
  command.footer(
      "Says what programs, knobs and maps an object has and which SQEs each "
      "program may queue on which of its files, and has this kernel verify "
      "each program, without a device: nothing is attached. Opcodes and files "
      "that are not constants in the code are called computed. Exit status 1 "
      "if a program is refused; the verifier's log follows.\n"
      "Examples:\n"
      "  ublk-bpf check mypolicy.bpf.o\n"
      "  ublk-bpf check loop --set offset=1M");
}

int run_check(const Options& options) {
  const auto request = attach_request(0, options.attach);
  if (!request) return report(request.error(), options.json, kUsedWrongly);
  const auto checked = check_object(*request);
  if (!checked) return report(checked.error(), options.json);
  if (options.json)
    say(dump(to_json(*checked)));
  else
    print(*checked);
  int status = kDone;
  for (const Verdict& verdict : checked->verdicts)
    if (verdict.error) status = report(*verdict.error, false);
  return status;
}

}  // namespace ublk::cli
