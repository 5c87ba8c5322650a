// SPDX-License-Identifier: MIT
//
// attach-cycles: attaches a program to a device, replaces it by another one
// and detaches that, again and again. The programs are loaded once, so that a
// cycle takes milliseconds; the files are opened anew for every attachment.
// The command does the same, but spends most of its time in loading.
//
// With --stay the first program is attached at the end. --read-only opens the
// files so, also for a device that can be written: the command never does.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <random>
#include <thread>

#include "ctrl/control.h"
#include "prog/face.h"
#include "prog/object.h"
#include "sys/backing.h"

namespace ublk {
namespace {

struct Options {
  uint32_t dev_id = 0;
  unsigned cycles = 1;
  unsigned pause_us = 0;  // at most, at random, in each of the three states
  bool stay = false;
  bool read_only = false;
  std::vector<std::string> objects;
  std::string file;
};

class Cycles {
 public:
  static Result<Cycles> create(const Options& options) {
    Cycles cycles(options, TRY(Control::open()));
    const FaceInfo face = detect_face();
    for (const auto& path : options.objects) {
      ProgramObject object = TRY(ProgramObject::open(path, face));
      TRY(object.load(TRY(object.choose(""))));
      cycles.programs_.push_back(std::move(object));
    }
    return cycles;
  }

  Result<void> run() {
    for (unsigned n = 0; n < options_.cycles; n++) {
      TRY(attach(0, 0));
      TRY(attach(1, UBLK_BPF_ATTACH_F_REPLACE));
      TRY(control_.detach_bpf(options_.dev_id));
      TRY(expect(0));
    }
    if (options_.stay) TRY(attach(0, 0));
    return {};
  }

 private:
  Cycles(const Options& options, Control control)
      : options_(options), control_(std::move(control)) {}

  Result<void> attach(size_t which, uint32_t flags) {
    const ProgramObject& program = programs_[which];
    const Backing file =
        TRY(Backing::open(options_.file, {.read_only = options_.read_only}));
    ublk_bpf_attach arg{};
    arg.prog_fd = program.fd();
    arg.flags = flags;
    arg.fds[arg.nr_files++] = file.fd.get();
    TRY(control_.attach_bpf(options_.dev_id, arg));
    return expect(TRY(program.id()));
  }

  // Lets I/O go on for a while, and sees whose it is.
  Result<void> expect(uint32_t prog_id) {
    std::uniform_int_distribution<unsigned> pause(0, options_.pause_us);
    std::this_thread::sleep_for(std::chrono::microseconds(pause(random_)));
    const ublk_bpf_info info = TRY(control_.bpf_info(options_.dev_id));
    if (info.prog_id != prog_id)
      return fail(EIO, "{}: has program {}, not {}",
                  device_name(options_.dev_id), info.prog_id, prog_id);
    return {};
  }

  Options options_;
  Control control_;
  std::vector<ProgramObject> programs_;
  std::minstd_rand random_{1};
};

Result<void> run(const Options& options) {
  Cycles cycles = TRY(Cycles::create(options));
  return cycles.run();
}

}  // namespace
}  // namespace ublk

int main(int argc, char** argv) {
  ublk::Options options;
  CLI::App app("attaches, replaces and detaches programs");
  app.add_option("--dev", options.dev_id)->required();
  app.add_option("--cycles", options.cycles)->required();
  app.add_option("--pause-us", options.pause_us);
  app.add_option("--file", options.file)->required();
  app.add_flag("--stay", options.stay);
  app.add_flag("--read-only", options.read_only);
  app.add_option("objects", options.objects)->required()->expected(2);
  CLI11_PARSE(app, argc, argv);
  const auto done = ublk::run(options);
  if (!done) {
    std::fprintf(stderr, "attach-cycles: %s\n", done.error().line().c_str());
    return 1;
  }
  return 0;
}
