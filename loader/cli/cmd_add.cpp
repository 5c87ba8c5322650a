// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "cli/command_line.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "layer/track_file.h"
#include "server/fault_rule.h"
#include "server/target.h"
#include "sys/device_name.h"
#include "sys/sizes.h"

namespace ublk::cli {

namespace {

constexpr uint32_t kMostDevices = 4096;
constexpr uint64_t kLeastIoBytes = 4096;
constexpr uint64_t kMostIoBytes = 32 << 20;

std::string target_help() {
  std::string text = "what serves it:";
  for (const TargetOps* ops : all_targets())
    text += fmt("\n{}: {};", ops->name, ops->summary);
  text.pop_back();
  return text;
}

Result<uint64_t> size_option(const char* name, const std::string& text) {
  if (text.empty()) return 0;
  return TRY_IN(name, parse_size(text));
}

Result<uint64_t> recovery_flags(const AddOptions& options) {
  if (options.reissue && options.fail_io)
    return fail(EINVAL,
                "-i and -e exclude each other: I/O without a server is "
                "kept or failed");
  uint64_t flags = 0;
  if (options.recovery || options.reissue || options.fail_io)
    flags |= UBLK_F_USER_RECOVERY;
  if (options.reissue) flags |= UBLK_F_USER_RECOVERY_REISSUE;
  if (options.fail_io) flags |= UBLK_F_USER_RECOVERY_FAIL_IO;
  return flags;
}

std::string data_path_help() {
  std::string text =
      "how data gets to the server:\n"
      "auto: the best that the kernel has;";
  for (const DataPath* path : all_data_paths())
    text += fmt("\n{}: {};", path->name, path->summary);
  text.pop_back();
  return text;
}

// --data-path, or one of the flags that other ublk tools have for it.
Result<std::string> data_path(const AddOptions& options) {
  struct Flag {
    bool given;
    const char* name;
    const DataPath& path;
  };
  const Flag flags[] = {
      {options.user_copy, "-u", kUserCopyPath},
      {options.need_get_data, "-g", kNeedGetDataPath},
      // Other tools need both for automatic registration.
      {options.zero_copy && !options.auto_zero_copy, "-z", kZeroCopyPath},
      {options.auto_zero_copy, "--auto-zc", kAutoZeroCopyPath},
  };
  std::string chosen = options.data_path;
  std::string by = fmt("--data-path {}", chosen);
  if (!chosen.empty() && chosen != kAutoDataPath) TRY(find_data_path(chosen));
  for (const Flag& flag : flags) {
    if (!flag.given || chosen == flag.path.name) continue;
    if (!chosen.empty())
      return fail(EINVAL,
                  "{} and {} exclude each other: a device has one data path",
                  by, flag.name);
    chosen = flag.path.name;
    by = flag.name;
  }
  return chosen.empty() ? std::string(kAutoDataPath) : chosen;
}

Result<void> check_block_size(uint32_t bytes) {
  if (bytes == 0 || (is_power_of_2(bytes) && bytes >= 512 && bytes <= 4096))
    return {};
  return fail(EINVAL, "--block-size {}: is not one of 512, 1024, 2048, 4096",
              bytes);
}

}  // namespace

namespace {

Result<void> set_track(const AddOptions& options, TargetSpec& spec) {
  if (options.track.empty() && options.track_block.empty()) return {};
  if (options.track.empty())
    return fail(EINVAL, "--track-block {}: there is no --track",
                options.track_block);
  if (options.type != kLoopTarget.name)
    return fail(EINVAL, "-t {} takes no --track: only loop does", options.type);
  const std::pair<bool, const char*> others[] = {
      {options.read_only, "--read-only: nothing is written that could be"},
      {options.shared, "--shared: what others write is not"},
      {options.unprivileged, "--unprivileged: such a device cannot be"}};
  for (const auto& [given, why] : others)
    if (given) return fail(EINVAL, "{} tracked (--track)", why);
  if (options.files.size() > 1)
    return fail(EINVAL, "--track {}: is of one device, {} files are given",
                options.track, options.files.size());
  spec.track = for_server(options.track);
  if (options.track_block.empty()) return {};
  const uint64_t block = TRY(size_option("--track-block", options.track_block));
  if (!is_power_of_2(block) || block < kLeastTrackBlock ||
      block > kMostTrackBlock)
    return fail(EINVAL,
                "--track-block {}: is not a power of two from 4K to 16M",
                options.track_block);
  spec.track_block_bytes = static_cast<uint32_t>(block);
  return {};
}

// What the driver would refuse, or leave out without a word.
Result<void> check_unprivileged(const AddRequest& request) {
  if (request.recovery_flags)
    return fail(EINVAL, "--unprivileged: such a device cannot be recovered");
  for (const auto* path : {&kCopyPath, &kNeedGetDataPath})
    if (request.data_path == path->name) return {};
  if (request.data_path == kAutoDataPath) return {};
  return fail(EINVAL,
              "--unprivileged: such a device has the data path {} or {}",
              kCopyPath.name, kNeedGetDataPath.name);
}

// What all of them have in common.
Result<AddRequest> add_request(const AddOptions& options) {
  AddRequest request;
  TargetSpec& spec = request.target;
  spec.type = options.type;
  spec.over = options.over;
  spec.faults = options.faults;
  const TargetOps* ops = TRY(file_target(spec));
  if (ops->takes_file == options.files.empty())
    return fail(EINVAL, "-t {} {}", ops->name,
                ops->takes_file ? "needs a file: -f FILE" : "takes no -f FILE");
  if (options.files.size() % ops->nr_files)
    return fail(EINVAL, "-t {} needs {} files for a device, {} given",
                ops->name, ops->nr_files, options.files.size());
  for (const std::string& rule : spec.faults) TRY(parse_fault_rule(rule));
  spec.size_bytes = TRY(size_option("--size", options.size));
  spec.offset_bytes = TRY(size_option("--offset", options.offset));
  spec.fill = !options.no_fill;
  if (options.no_fill && ops != &kNullTarget)
    return fail(EINVAL, "-t {} takes no --no-fill", ops->name);
  if (spec.offset_bytes && !ops->takes_file)
    return fail(EINVAL, "-t {} takes no --offset", ops->name);
  TRY(check_block_size(options.block_size));
  spec.block_bytes = options.block_size;
  const uint32_t block = options.block_size ? options.block_size : 512;
  if (!options.size.empty() && spec.size_bytes < block)
    return fail(EINVAL, "--size {}: is less than a block of {} bytes",
                options.size, block);
  if (spec.size_bytes % block)
    return fail(EINVAL, "--size {}: is not a multiple of the block size {}",
                options.size, block);
  const uint64_t max_io = TRY(size_option("--max-io", options.max_io));
  if (max_io < kLeastIoBytes || max_io > kMostIoBytes || max_io % kLeastIoBytes)
    return fail(EINVAL, "--max-io {}: is not a multiple of 4096 up to 32M",
                options.max_io);
  spec.max_io_bytes = static_cast<uint32_t>(max_io);
  spec.chunk_bytes = TRY(size_option("--chunk", options.chunk));
  if (!options.chunk.empty() && spec.chunk_bytes == 0)
    return fail(EINVAL, "--chunk {}: is not a size", options.chunk);
  spec.read_only = options.read_only;
  spec.buffered = options.buffered;
  spec.write_back = options.write_back;
  request.nr_hw_queues = static_cast<uint16_t>(options.queues);
  request.queue_depth = static_cast<uint16_t>(options.depth);
  request.recovery_flags = TRY(recovery_flags(options));
  request.data_path = TRY(data_path(options));
  request.batch = options.batch;
  if (options.batch && request.data_path == kNeedGetDataPath.name)
    return fail(EINVAL,
                "-b and -g exclude each other: a batch has a write's data");
  request.bpf = !options.no_bpf;
  request.part_scan = !options.no_part_scan;
  request.shared = options.shared;
  request.unprivileged = options.unprivileged;
  if (options.unprivileged) TRY(check_unprivileged(request));
  TRY(set_track(options, spec));
  return request;
}

}  // namespace

Result<std::vector<AddRequest>> add_requests(const AddOptions& options) {
  const AddRequest common = TRY(add_request(options));
  if (options.count > 1 && !options.files.empty())
    return fail(EINVAL,
                "--count {}: devices of files are as many as there are -f FILE",
                options.count);
  for (size_t i = 0; i < options.names.size(); i++) {
    TRY_IN("--name", check_device_name(options.names[i]));
    if (std::ranges::count(options.names, options.names[i]) > 1)
      return fail(EINVAL, "--name {}: is given twice", options.names[i]);
  }
  std::vector<AddRequest> requests;
  const size_t each = TRY(file_target(common.target))->nr_files;
  const size_t count =
      std::max<size_t>(options.files.size() / each, options.count);
  if (!options.names.empty() && options.names.size() != count)
    return fail(EINVAL, "--name: {} names for {} devices", options.names.size(),
                count);
  for (size_t i = 0; i < count; i++) {
    AddRequest& request = requests.emplace_back(common);
    if (!options.names.empty()) request.name = options.names[i];
    for (size_t f = 0; f < each && !options.files.empty(); f++)
      request.target.files.push_back(for_server(options.files[i * each + f]));
    if (options.dev_id >= 0)
      request.dev_id =
          static_cast<uint32_t>(options.dev_id) + static_cast<uint32_t>(i);
  }
  return requests;
}

void define_add(Arguments& command, Options& options) {
  AddOptions& add = options.add;
  command.text("-t,--type", add.type, "TARGET", target_help(), true);
  command.texts("-f,--file", add.files, "FILE",
                "file or block device that is served; repeat it for the legs "
                "of a mirror, and for more devices in the same server");
  command.number("--count", add.count, 1, kMostDevices,
                 "so many devices in one server, of a target without file; "
                 "-n is the first one's number");
  command.text("--over", add.over, "TARGET", "fault: the target it is over");
  command.texts("--fault", add.faults, "RULE",
                "fault: what goes wrong, and when; repeat it for more, the "
                "first that applies does: op=read+write, range=1M-2M, "
                "rate=0.1, seed=7, delay=5ms, error=EIO, short=512, joined "
                "by commas");
  command.flag("--no-fill", add.no_fill,
               "null: reads by zero copy leave the reader's memory as it was, "
               "for measuring");
  command.new_device(add.dev_id);
  command.texts("--name", add.names, "NAME",
                "a name, for every -n and for /dev/disk/by-id/ublk-bpf-NAME; "
                "repeat it for more devices");
  command.flag("--show", add.show,
               "print the path of the block device, and nothing else");
  command.number("-q,--queues", add.queues, 1, UBLK_MAX_NR_QUEUES,
                 "hardware queues");
  command.number("-d,--depth", add.depth, 1, UBLK_MAX_QUEUE_DEPTH,
                 "requests in flight per queue");
  command.text("--size", add.size, "SIZE",
               "size of the device: bytes, or K, M, G, T (default: the "
               "file's; null: 250G)");
  command.text("--offset", add.offset, "SIZE", "where in the file it begins");
  command.number("--block-size", add.block_size, 0, 4096,
                 "logical block size, 512 to 4096 (0: the least that the file "
                 "allows)");
  command.text("--max-io", add.max_io, "SIZE", "largest request");
  command.text("--chunk", add.chunk, "SIZE",
               "no read or write crosses a multiple of it, which has to be one "
               "of the block size: for programs that place data by chunk");
  command.text("--track", add.track, "FILE",
               "loop: note in this file which blocks are written; see track "
               "list. It is made if there is none");
  command.text("--track-block", add.track_block, "SIZE",
               "how large these blocks are, 4K to 16M (default: as in the "
               "file, or 64K)");
  command.flag("--read-only", add.read_only, "nothing can be written");
  command.flag("--buffered,--buffered_io", add.buffered,
               "through the page cache, not O_DIRECT");
  command.flag("--write-back", add.write_back,
               "say that it has a volatile write cache even if its disk has "
               "none: for programs that write to other files");
  command.flag("--shared", add.shared,
               "even if another device writes to the same bytes of the file");
  command.toggle("-r,--recovery,--user_recovery", add.recovery,
                 "keep the device when its server dies, see recover");
  command.toggle("-i,--reissue,--user_recovery_reissue", add.reissue,
                 "and give the new server what the old one had begun");
  command.toggle("-e,--fail-io,--user_recovery_fail_io", add.fail_io,
                 "and fail I/O meanwhile, instead of keeping it");
  command.text("--data-path", add.data_path, "PATH", data_path_help());
  command.flag("-u,--user-copy,--user_copy,--usercopy", add.user_copy,
               "--data-path user-copy");
  command.toggle("-g,--need-get-data,--need_get_data,--get_data",
                 add.need_get_data, "--data-path need-get-data");
  command.flag("-z,--zero-copy,--zero_copy", add.zero_copy,
               "--data-path zero-copy");
  command.flag("--auto-zc,--auto_zc", add.auto_zero_copy,
               "--data-path auto-zero-copy");
  command.flag("-b,--batch", add.batch,
               "many requests by one command, on any of these paths except "
               "need-get-data");
  command.flag("--no-part-scan,--no_auto_part_scan", add.no_part_scan,
               "partitions are not looked for");
  command.flag("--no-bpf", add.no_bpf, "no BPF program can be attached");
  command.flag("--unprivileged", add.unprivileged,
               "as a user who is not root: only copying, no recovery, no "
               "program");
  command.flag("--foreground", add.foreground,
               "serve in this process, until SIGTERM or SIGINT");
  command.footer(
      "Examples:\n"
      "  ublk-bpf add -t loop -f disk.img\n"
      "  ublk-bpf add -t loop -f /dev/nvme0n1 -n 3 -q 2 -d 256 -r 1\n"
      "  ublk-bpf add -t null --size 10G --foreground\n"
      "  ublk-bpf add -t loop -f disk.img --track disk.track -r\n"
      "  ublk-bpf add -t loop -f disk.img --name vm1 --show\n"
      "  ublk-bpf add -t fault --over loop -f disk.img --fault "
      "op=read,range=1M-2M,error=EIO");
}

int run_add(const Options& options) {
  const auto requests = add_requests(options.add);
  if (!requests) return report(requests.error(), options.json, kUsedWrongly);
  return run_server(
      options, options.add.foreground,
      [&](const ServeHooks& hooks) { return serve_new(*requests, hooks); });
}

}  // namespace ublk::cli
