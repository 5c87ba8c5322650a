// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/command_line.h"
#include "cli/output.h"

namespace ublk::cli {

Result<AttachRequest> attach_request(uint32_t dev_id,
                                     const AttachOptions& options) {
  AttachRequest request;
  request.dev_id = dev_id;
  request.object = options.object;
  request.program = options.program;
  request.files = options.files;
  for (const std::string& knob : options.knobs) {
    const auto equals = knob.find('=');
    if (equals == std::string::npos || equals == 0)
      return fail(EINVAL, "--set '{}': is not knob=value", knob);
    request.knobs.emplace_back(knob.substr(0, equals), knob.substr(equals + 1));
  }
  if (options.no_inline && options.inline_files)
    return fail(EINVAL, "--no-inline and --inline-files exclude each other");
  if (options.replace) request.flags |= UBLK_BPF_ATTACH_F_REPLACE;
  if (options.no_inline) request.flags |= UBLK_BPF_ATTACH_F_NO_INLINE;
  if (options.inline_files) request.flags |= UBLK_BPF_ATTACH_F_INLINE_REG;
  if (options.pass_errors) request.flags |= UBLK_BPF_ATTACH_F_PASS_ERRORS;
  if (options.requests) request.flags |= UBLK_BPF_ATTACH_F_REQUESTS;
  request.buffered = options.buffered;
  if (options.keep_maps && !options.replace)
    return fail(EINVAL,
                "--keep-maps: goes with --replace only: they are those "
                "of the program that it takes the place of");
  request.keep_maps = options.keep_maps;
  if (options.shared && options.files.empty())
    return fail(EINVAL,
                "--shared: goes with --file only: the target's own file is "
                "shared by add --shared");
  request.shared = options.shared;
  request.pin_dir = options.pin_maps;
  return request;
}

void define_attach(Arguments& command, Options& options) {
  AttachOptions& attach = options.attach;
  command.device(options.dev_id, true);
  command.text(
      "object", attach.object, "OBJ",
      "compiled program, x.bpf.o, or the name of an installed one, as loop",
      true);
  command.text("--prog", attach.program, "NAME",
               "which program, if the object has several");
  command.texts("--file", attach.files, "FILE",
                "what the program's SQEs index; repeat it for more (default: "
                "what the device's target serves)");
  command.flag("--shared", attach.shared,
               "with --file: even if another device has the same bytes, and "
               "one of them writes");
  command.texts("--set", attach.knobs, "KNOB=VALUE",
                "value of a const volatile variable");
  command.changed_file(options.changed_file);
  command.flag("--replace", attach.replace,
               "take the place of the attached program");
  command.flag("--no-inline", attach.no_inline,
               "never issue in the submitter's context");
  command.flag(
      "--inline-files", attach.inline_files,
      "issue to regular files in the submitter's context even while the "
      "device is mounted");
  command.flag("--pass-errors", attach.pass_errors,
               "what fails in the program is handed to the server, instead of "
               "failing");
  command.flag("--requests", attach.requests,
               "show the program requests only, never bios of which none has "
               "been made yet");
  command.flag("--buffered", attach.buffered,
               "through the page cache, not O_DIRECT");
  command.text(
      "--pin-maps", attach.pin_maps, "DIR",
      "give its maps names in a BPF file system, DIR/ublkbN/MAP, until "
      "detach, del or the next attach");
  command.flag("--keep-maps", attach.keep_maps,
               "with --replace: go on with the maps of the attached program, "
               "which must be the same by name, type and size");
  command.footer(
      "The attachment stays when this command has ended, until detach, del or "
      "attach --replace. A completion program that the object has beside the "
      "program is attached with it.\n"
      "Examples:\n"
      "  ublk-bpf attach --dev 0 loop\n"
      "  ublk-bpf attach -n 0 ./mypolicy.bpf.o\n"
      "  ublk-bpf attach -n 0 concat --file a.img --file b.img\n"
      "  ublk-bpf attach -n 0 loop --set offset=1M --replace");
}

int run_attach(const Options& options) {
  const auto dev_id = static_cast<uint32_t>(options.dev_id);
  auto request = attach_request(dev_id, options.attach);
  if (!request) return report(request.error(), options.json, kUsedWrongly);
  request->changed_file = options.changed_file;
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), options.json);
  const StateStore states = StateStore::open_existing();
  const auto took = attach_program(*control, states, *request);
  if (!took) return report(took.error(), options.json);
  auto device = describe(*control, states, dev_id);
  if (!device) return report(device.error(), options.json);
  if (options.json)
    say(attach_json(*device, *took));
  else
    say(fmt("dev id {}: program {} attached, id {}", dev_id,
            device->attached() ? device->attached()->program : "",
            device->bpf ? device->bpf->prog_id : 0));
  return kDone;
}

}  // namespace ublk::cli
