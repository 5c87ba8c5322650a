// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cli/arguments.h"
#include "cli/boot_commands.h"
#include "cli/watch_commands.h"
#include "ctrl/control.h"
#include "device/bpf.h"
#include "device/serve.h"
#include "sys/error.h"

namespace ublk::cli {

// kDamaged: of `layer check`.
enum ExitStatus { kDone = 0, kFailed = 1, kUsedWrongly = 2, kDamaged = 3 };

struct AddOptions {
  std::string type;
  std::vector<std::string> files;
  std::vector<std::string> names;
  bool show = false;
  std::string over;
  std::vector<std::string> faults;
  int64_t dev_id = -1;
  uint32_t queues = 1;
  uint32_t depth = 128;
  std::string size;
  std::string offset;
  uint32_t block_size = 0;
  std::string max_io = "1M";
  std::string chunk;
  std::string track;
  std::string track_block;
  bool read_only = false;
  bool buffered = false;
  bool write_back = false;
  bool shared = false;
  bool recovery = false;
  bool reissue = false;
  bool fail_io = false;
  std::string data_path;
  bool user_copy = false;
  bool need_get_data = false;
  bool zero_copy = false;
  bool auto_zero_copy = false;
  bool batch = false;
  bool no_bpf = false;
  bool no_part_scan = false;
  bool no_fill = false;
  uint32_t count = 1;
  bool unprivileged = false;
  bool foreground = false;
};

struct AttachOptions {
  std::string object;
  std::string program;
  std::vector<std::string> files;
  std::vector<std::string> knobs;  // knob=value
  bool replace = false;
  bool no_inline = false;
  bool inline_files = false;
  bool pass_errors = false;
  bool requests = false;
  bool buffered = false;
  std::string pin_maps;
  bool keep_maps = false;
  bool shared = false;
};

struct BenchOptions {
  std::string what = "run";
  std::vector<std::string> results;
  std::string backing;
  std::string output = "ublk-bpf-bench";
  std::string face;
  std::string cpu;
  uint32_t rounds = 0;
  std::vector<std::string> parts;
  std::vector<std::string> jobs;
  std::vector<std::string> paths;
  bool host = false;
  bool full = false;
  bool fresh = false;
};

struct LayerOptions {
  std::string file;
  std::string base;
  std::string base_format;
  std::string size;
  std::string block_size = "4K";
  std::string since;
  bool chain = false;
  bool repair = false;
};

struct TrackOptions {
  std::string file;
  std::string name;
  std::string since;
};

// A command line that has been understood.
struct Options {
  std::string command;
  bool json = false;
  int64_t dev_id = -1;  // -1: not given
  std::string device;   // or what has to be looked for: find_device()
  bool all = false;
  bool foreground = false;
  bool safe = false;
  bool force = false;
  bool with_others = false;
  uint32_t patience = 5;   // seconds
  uint32_t deadline = 30;  // likewise
  bool asynchronous = false;
  bool shrink = false;
  bool verbose = false;
  bool changed_file = false;
  bool fail_io = false;
  bool dry_run = false;
  uint32_t queue = 0;
  uint32_t interval = 0;  // seconds
  bool live = false;      // the device was given by its place
  uint32_t count = 0;
  std::string cpus;
  std::string topic;
  std::vector<std::string> topic_words;
  std::string format = "ublk-bpf";
  std::string ignored;
  std::string to;        // a name that is made, or a layer
  std::string snapshot;  // likewise
  std::string rate;
  bool stops = false;
  AddOptions add;
  AttachOptions attach;
  BenchOptions bench;
  LayerOptions layer;
  TrackOptions track;
  BootOptions boot;
  WatchOptions watch;

  ControlOptions control() const {
    return {.deadline = std::chrono::seconds(deadline)};
  }
};

struct Parsed {
  // What to print instead of running anything: help, version, or what is
  // wrong; `options` is only valid without it.
  std::string text;
  ExitStatus status = kDone;
  Options options;
};

Parsed parse(int argc, const char* const* argv);

// From the options to what the library takes: one request per device. EINVAL:
// used wrongly.
Result<std::vector<AddRequest>> add_requests(const AddOptions& options);
Result<AttachRequest> attach_request(uint32_t dev_id,
                                     const AttachOptions& options);

// The help on a command, a target, or "". EINVAL: it is neither.
Result<std::string> help_on(const std::string& topic);

// One file each. They print and give the exit status.
void define_add(Arguments& command, Options& options);
void define_attach(Arguments& command, Options& options);
void define_detach(Arguments& command, Options& options);
void define_drain(Arguments& command, Options& options);
void define_del(Arguments& command, Options& options);
void define_recover(Arguments& command, Options& options);
void define_list(Arguments& command, Options& options);
void define_probe(Arguments& command, Options& options);
void define_help(Arguments& command, Options& options);
void define_stop(Arguments& command, Options& options);
void define_quiesce(Arguments& command, Options& options);
void define_takeover(Arguments& command, Options& options);
void define_resize(Arguments& command, Options& options);
void define_set_affinity(Arguments& command, Options& options);
void define_features(Arguments& command, Options& options);
void define_info(Arguments& command, Options& options);
void define_stat(Arguments& command, Options& options);
void define_own(Arguments& command, Options& options);
void define_gc(Arguments& command, Options& options);
void define_bench(Arguments& command, Options& options);
void define_snapshot(Arguments& command, Options& options);
void define_fork(Arguments& command, Options& options);
void define_reset(Arguments& command, Options& options);
void define_flatten(Arguments& command, Options& options);
void define_diff(Arguments& command, Options& options);
void define_layer_create(Arguments& command, Options& options);
void define_layer_info(Arguments& command, Options& options);
void define_layer_check(Arguments& command, Options& options);
void define_layer_list(Arguments& command, Options& options);
void define_layer_diff(Arguments& command, Options& options);
void define_track_mark(Arguments& command, Options& options);
void define_track_list(Arguments& command, Options& options);
int run_add(const Options& options);
int run_attach(const Options& options);
int run_detach(const Options& options);
int run_drain(const Options& options);
int run_del(const Options& options);
int run_recover(const Options& options);
int run_list(const Options& options);
int run_probe(const Options& options);
int run_help(const Options& options);
int run_stop(const Options& options);
int run_quiesce(const Options& options);
int run_takeover(const Options& options);
int run_resize(const Options& options);
int run_set_affinity(const Options& options);
int run_features(const Options& options);
int run_info(const Options& options);
int run_stat(const Options& options);
int run_own(const Options& options);
int run_gc(const Options& options);
int run_bench(const Options& options);
int run_snapshot(const Options& options);
int run_fork(const Options& options);
int run_reset(const Options& options);
int run_flatten(const Options& options);
int run_diff(const Options& options);
int run_layer_create(const Options& options);
int run_layer_info(const Options& options);
int run_layer_check(const Options& options);
int run_layer_list(const Options& options);
int run_layer_diff(const Options& options);
int run_track_mark(const Options& options);
int run_track_list(const Options& options);

struct Command {
  const char* name;   // one word, or as "layer create" that of a group before
  const char* alias;  // what other tools call it; nullptr
  const char* summary;
  void (*define)(Arguments& command, Options& options);
  int (*run)(const Options& options);
  bool asks_driver = true;  // and so takes --deadline
};
const std::vector<Command>& commands();

}  // namespace ublk::cli
