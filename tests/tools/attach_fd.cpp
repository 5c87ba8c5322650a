// SPDX-License-Identifier: MIT
//
// attach-fd: attaches a program with files that are open already: descriptors
// that this process has inherited, of whatever kind. Prints the errno of the
// attachment, 0 if it was made. The command opens files itself, and checks
// much before the kernel can.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "ctrl/control.h"
#include "prog/face.h"
#include "prog/object.h"

namespace ublk {
namespace {

struct Options {
  uint32_t dev_id = 0;
  uint32_t flags = 0;
  std::vector<int> fds;
  std::vector<std::string> knobs;
  std::string object;
};

// What the kernel says to the attachment.
Result<int> attach(const Options& options) {
  Control control = TRY(Control::open());
  ProgramObject object =
      TRY(ProgramObject::open(options.object, detect_face()));
  for (const std::string& knob : options.knobs) {
    const auto equals = knob.find('=');
    if (equals == std::string::npos) return fail(EINVAL, "--set '{}'", knob);
    TRY(object.knobs().set(knob.substr(0, equals), knob.substr(equals + 1)));
  }
  TRY(object.load(TRY(object.choose(""))));
  ublk_bpf_attach arg{};
  if (options.fds.size() > std::size(arg.fds)) return fail(EINVAL, "too many");
  arg.prog_fd = object.fd();
  arg.flags = options.flags;
  for (const int fd : options.fds) arg.fds[arg.nr_files++] = fd;
  const auto done = control.attach_bpf(options.dev_id, arg);
  return done ? 0 : done.error().code();
}

}  // namespace
}  // namespace ublk

int main(int argc, char** argv) {
  ublk::Options options;
  CLI::App app("attaches a program with inherited file descriptors");
  app.add_option("--dev", options.dev_id)->required();
  app.add_option("--fd", options.fds);
  app.add_option("--flags", options.flags, "UBLK_BPF_ATTACH_F_*");
  app.add_option("--set", options.knobs);
  app.add_option("object", options.object)->required();
  CLI11_PARSE(app, argc, argv);
  const auto code = ublk::attach(options);
  if (!code) {
    std::fprintf(stderr, "attach-fd: %s\n", code.error().line().c_str());
    return 1;
  }
  std::printf("%d\n", *code);
  return 0;
}
