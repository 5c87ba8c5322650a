// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "cli/command_line.h"
#include "cli/output.h"
#include "sys/process.h"

namespace ublk::cli {

namespace {

// The harness is not part of this program: in the source tree it is beside
// what is built, installed it is under lib/.
Result<std::filesystem::path> harness(const std::filesystem::path& self) {
  if (const char* dir = std::getenv("UBLK_BPF_BENCH_DIR"))
    return std::filesystem::path(dir) / "main.py";
  const auto bin = self.parent_path();
  for (const char* dir : {"../../bench", "../lib/ublk-bpf/bench"}) {
    std::error_code ignored;
    const auto found =
        std::filesystem::weakly_canonical(bin / dir / "main.py", ignored);
    if (std::filesystem::exists(found, ignored)) return found;
  }
  return std::unexpected(
      Error::plain(ENOENT,
                   fmt("bench: the benchmark is not beside {}", self.string()))
          .hint("run it from the source tree (build/loader/ublk-bpf), or say "
                "where its folder bench/ is in UBLK_BPF_BENCH_DIR"));
}

void add(std::vector<std::string>& argv, const char* name,
         const std::string& value) {
  if (value.empty()) return;
  argv.push_back(name);
  argv.push_back(value);
}

std::vector<std::string> arguments_of(const Options& options) {
  const BenchOptions& bench = options.bench;
  std::vector<std::string> argv{bench.what};
  argv.insert(argv.end(), bench.results.begin(), bench.results.end());
  if (options.dev_id >= 0) add(argv, "--dev", std::to_string(options.dev_id));
  add(argv, "--backing", bench.backing);
  add(argv, "--output", bench.output);
  add(argv, "--face", bench.face);
  add(argv, "--cpu", bench.cpu);
  if (bench.rounds) add(argv, "--rounds", std::to_string(bench.rounds));
  for (const std::string& part : bench.parts) add(argv, "--part", part);
  for (const std::string& job : bench.jobs) add(argv, "--job", job);
  for (const std::string& path : bench.paths) add(argv, "--path", path);
  if (bench.host) argv.push_back("--host");
  if (bench.full) argv.push_back("--full");
  if (bench.fresh) argv.push_back("--fresh");
  if (options.json) argv.push_back("--json");
  return argv;
}

Result<void> check(const Options& options) {
  const BenchOptions& bench = options.bench;
  const size_t wanted = bench.what == "compare" ? 2 : bench.what == "report";
  if (bench.what != "run" && bench.what != "compare" && bench.what != "report")
    return fail(EINVAL, "bench {}: there are run, compare and report",
                bench.what);
  if (bench.results.size() != wanted)
    return fail(EINVAL, "bench {}: takes {} results, not {}", bench.what,
                wanted, bench.results.size());
  if (!bench.backing.empty() && !bench.host)
    return fail(EINVAL, "--backing {}: is of this host: say --host too",
                bench.backing);
  if (!bench.cpu.empty() && !bench.host && options.dev_id < 0)
    return fail(EINVAL, "--cpu {}: is of this host: say --host or --dev too",
                bench.cpu);
  if (options.dev_id >= 0 && (bench.full || !bench.backing.empty()))
    return fail(EINVAL, "--dev {}: is neither for --full nor for --backing",
                options.dev_id);
  return {};
}

}  // namespace

void define_bench(Arguments& command, Options& options) {
  BenchOptions& bench = options.bench;
  command.text("what", bench.what, "run|compare|report",
               "run, compare A.json B.json, or report A.json");
  command.texts("results", bench.results, "RESULT",
                "what compare and report are about");
  command.device(options.dev_id, false);
  command.flag("--host", bench.host,
               "measure on this host, in CPU time and perf's events, not in a "
               "virtual machine that counts instructions; as root");
  command.text("--backing", bench.backing, "DISK",
               "with --host: a disk that nobody uses, WHICH IS OVERWRITTEN "
               "(default: null_blk)");
  command.text("--cpu", bench.cpu, "N",
               "with --host or --dev: the processor that submits (default: the "
               "last that this process may use)");
  command.flag("--full", bench.full,
               "all sizes, depths, backings and numbers of devices: hours; it "
               "goes on where it was interrupted");
  command.flag("--fresh", bench.fresh,
               "measure again what is there from before");
  command.texts("--part", bench.parts, "NAME", "only this part of the set");
  command.texts("--job", bench.jobs, "NAME", "only this job, as read-4k-qd1");
  command.texts("--path", bench.paths, "NAME", "only this path, as 'program'");
  command.number("--rounds", bench.rounds, 0, 1000,
                 "how often each figure is taken (0: as the set says)");
  command.text("--face", bench.face, "module|type",
               "of the virtual machine's kernel");
  command.text("-o,--output", bench.output, "DIR",
               "where result.json, report.txt, report.html and plots go");
  command.footer(
      "What an I/O costs on each data path, and where the time goes: raw "
      "backing, kernel "
      "loop, dm-linear, nbd, kublk, our server on every data path, the "
      "program. Paths that this machine lacks are listed as absent.\n"
      "With --dev N an existing device is read, as it is and beside other "
      "ways to read its file; nothing is written.\n"
      "Exit status: 0 done, 1 a promised ratio is broken or compare found "
      "something worse, 2 no result, 130 interrupted: what was measured is "
      "kept.\n"
      "Examples:\n"
      "  ublk-bpf bench\n"
      "  ublk-bpf bench --dev 0\n"
      "  ublk-bpf bench --host --backing /dev/nvme1n1 --full\n"
      "  ublk-bpf bench compare before/result.json after/result.json");
}

int run_bench(const Options& options) {
  if (const auto good = check(options); !good)
    return report(good.error(), options.json, kUsedWrongly);
  const std::filesystem::path self = own_path();
  const auto main = harness(self);
  if (!main) return report(main.error(), options.json);

  std::vector<std::string> words{"python3", main->string()};
  for (std::string& word : arguments_of(options)) words.push_back(word);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // The harness asks this same command for its devices.
  ::setenv("UBLK_BPF", self.c_str(), 0);
  ::execvp(argv[0], argv.data());
  return report(
      Error::sys(errno, "bench: python3").hint("apt-get install python3"),
      options.json);
}

}  // namespace ublk::cli
