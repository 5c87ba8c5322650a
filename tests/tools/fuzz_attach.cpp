// SPDX-License-Identifier: MIT
//
// fuzz-attach: makes random SQEs and verdicts for fuzz.bpf.c (fuzz.h), good,
// nearly good and bad ones, and attaches, replaces and detaches that program
// with changing files and flags until so many SQEs were queued. The nth request
// gets the entry that follows from the seed and n. Prints what was done as
// JSON. A FILE is MODE:PATH, MODE letters of d (O_DIRECT) and r (read-only).
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "../programs/fuzz.h"
#include "ctrl/control.h"
#include "prog/face.h"
#include "prog/object.h"

namespace ublk {
namespace {

struct Options {
  uint32_t dev_id = 0;
  uint64_t seed = 1;
  uint64_t sqes = 10000;
  unsigned seconds = 600;
  std::string object;
  std::vector<std::string> files;
};

// Entry n of a seed.
class Maker {
 public:
  Maker(uint64_t seed, uint64_t n)
      : random_(seed * 0x9e3779b97f4a7c15ULL + n) {}

  fuzz_entry entry() {
    fuzz_entry e{};
    const unsigned style = roll(100);
    e.verdict = UBLK_BPF_IO_REDIRECT;
    if (style < 70) {
      good_plan(e);
    } else if (style < 90) {
      good_plan(e);
      if (e.nr_sqes) spoil(e.sqes[roll(e.nr_sqes)]);
    } else {
      e.nr_sqes = roll(FUZZ_MAX_SQES + 1);
      for (unsigned i = 0; i < e.nr_sqes; i++) random_sqe(e.sqes[i]);
    }
    if (roll(100) < 12) e.verdict = static_cast<int32_t>(roll(4));
    if (roll(200) == 0) e.verdict = static_cast<int32_t>(random_());
    return e;
  }

 private:
  unsigned roll(unsigned below) {
    return static_cast<unsigned>(random_() % below);
  }

  // Values at the edges of what is allowed, or anything.
  uint64_t interesting() {
    static constexpr std::array<uint64_t, 16> kEdges = {
        0,          1,          255,   511,     512,        513,
        4095,       4096,       65536, 1 << 24, 0x7fffffff, 0xffffffff,
        1ULL << 32, 1ULL << 63, ~0ULL, ~511ULL};
    const uint64_t random = random_();
    switch (roll(4)) {
      case 0:
        return random;
      case 1:
        return random % (16 << 20) & ~511ULL;
      default:
        return kEdges[random % kEdges.size()];
    }
  }

  int32_t small() {
    static constexpr std::array<int32_t, 9> kSteps = {1,   2,    4,    256, 511,
                                                      512, 4096, -512, -1};
    return kSteps[roll(kSteps.size())];
  }

  void good_sqe(fuzz_sqe& s) {
    for (auto& word : s.words) word = random_();
    // Mostly as other programs do it: no sync flags, few links.
    if (roll(4)) s.words[3] &= ~0ULL >> 32;
    if (roll(3)) s.words[0] &= ~(uint64_t{IOSQE_IO_LINK} << 8);
    s.fit = FUZZ_FIT_SQE;
  }

  void good_plan(fuzz_entry& e) {
    const bool parts = roll(2);
    // Each file once: a FLUSH is good only if it has all that were written.
    const bool each_file = roll(3) == 0;
    e.nr_sqes = each_file ? UBLK_BPF_MAX_SQES : roll(2) ? 1 : 1 + roll(4);
    for (unsigned i = 0; i < e.nr_sqes; i++) {
      fuzz_sqe& s = e.sqes[i];
      good_sqe(s);
      if (parts) s.fit |= FUZZ_PART;
      if (each_file) set_fd(s, i);
      if (roll(20) == 0) other_opcode(s);
    }
  }

  static void set_fd(fuzz_sqe& s, uint32_t fd) {
    s.words[0] = (s.words[0] & 0xffffffff) | uint64_t{fd} << 32;
  }

  // FSYNC and NOP go with every operation.
  void other_opcode(fuzz_sqe& s) {
    s.fit &= ~(FUZZ_FIT_OPCODE | FUZZ_FIT_WHERE | FUZZ_FIT_OP_FLAGS);
    s.words[0] &= ~0xffULL;
    if (roll(2)) s.words[0] |= IORING_OP_FSYNC;
    s.words[1] = s.words[2] = s.words[3] = 0;
  }

  void spoil(fuzz_sqe& s) {
    switch (roll(6)) {
      case 0:
        s.add_off = small();
        break;
      case 1:
        s.add_addr = small();
        break;
      case 2:
        s.add_len = small();
        break;
      case 3:
        s.target = roll(2);
        s.words[roll(8)] = interesting();
        break;
      default:
        s.fit &= ~(1U << roll(6));
        for (auto& word : s.words) word = interesting();
        if (roll(2)) s.words[3] &= ~0ULL >> 32;
    }
  }

  void random_sqe(fuzz_sqe& s) {
    for (auto& word : s.words) word = roll(2) ? interesting() : random_();
    s.fit = roll(2)
                ? uint32_t{FUZZ_RAW}
                : static_cast<uint32_t>(random_()) & (FUZZ_FIT_SQE | FUZZ_PART);
    s.size = roll(8) ? sizeof(io_uring_sqe) : roll(128);
    s.target = roll(16) == 0;
    if (roll(2)) raw_opcode(s);
  }

  void raw_opcode(fuzz_sqe& s) {
    static constexpr std::array<uint8_t, 8> kOpcodes = {
        IORING_OP_NOP,         IORING_OP_FSYNC, IORING_OP_READ_FIXED,
        IORING_OP_WRITE_FIXED, IORING_OP_READ,  IORING_OP_WRITE,
        IORING_OP_FALLOCATE,   IORING_OP_READV};
    s.words[0] = kOpcodes[roll(kOpcodes.size())] | uint64_t{roll(4)} << 32;
    s.words[5] = s.words[6] = s.words[7] = 0;
    if (roll(2)) s.words[3] &= ~0ULL >> 32;
  }

  std::mt19937_64 random_;
};

// The map of a loaded program, mapped.
class Table {
 public:
  static Result<Table> map(const ProgramObject& object) {
    std::array<uint32_t, 16> ids{};
    bpf_prog_info info{};
    info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
    info.nr_map_ids = ids.size();
    uint32_t len = sizeof(info);
    if (const int code =
            errno_of(bpf_prog_get_info_by_fd(object.fd(), &info, &len)))
      return fail_sys(code, "{}: the program's maps", object.path());
    for (uint32_t i = 0; i < info.nr_map_ids; i++) {
      const UniqueFd fd(bpf_map_get_fd_by_id(ids[i]));
      bpf_map_info map{};
      len = sizeof(map);
      if (!fd.valid() || bpf_map_get_info_by_fd(fd.get(), &map, &len)) continue;
      if (map.value_size < sizeof(fuzz_table)) continue;
      void* at = ::mmap(nullptr, sizeof(fuzz_table), PROT_READ | PROT_WRITE,
                        MAP_SHARED, fd.get(), 0);
      if (at == MAP_FAILED)
        return fail_sys(errno, "{}: mmap of its map", object.path());
      return Table(static_cast<fuzz_table*>(at));
    }
    return fail(ENOENT, "{}: has no table", object.path());
  }

  void fill(uint64_t seed, uint64_t n) {
    table_->entries[n % FUZZ_ENTRIES] = Maker(seed, n).entry();
  }
  // Bytes change while the program and the kernel read them.
  void scribble(std::mt19937_64& random) {
    const auto n = (runs() + random() % 8) % FUZZ_ENTRIES;
    table_->entries[n].sqes[random() % 2].words[random() % 4] ^=
        1ULL << random() % 64;
  }
  uint64_t runs() const { return load(table_->runs); }
  uint64_t sqes() const { return load(table_->sqes); }
  uint64_t accepted() const { return load(table_->accepted); }

 private:
  explicit Table(fuzz_table* table) : table_(table) {}
  static uint64_t load(const __u64& counter) {
    return __atomic_load_n(&counter, __ATOMIC_RELAXED);
  }

  fuzz_table* table_;  // until the process ends
};

class Fuzz {
 public:
  static Result<Fuzz> create(const Options& options) {
    Control control = TRY(Control::open());
    const FaceInfo face = detect_face();
    ProgramObject object = TRY(ProgramObject::open(options.object, face));
    // The verifier knows the range of what a program type returns.
    if (face.face == Face::struct_ops)
      TRY(object.knobs().set("any_verdict", "1"));
    TRY(object.load(TRY(object.choose(""))));
    Table table = TRY(Table::map(object));
    return Fuzz(options, std::move(control), std::move(object), table);
  }

  Result<void> run() {
    const auto begin = std::chrono::steady_clock::now();
    for (uint64_t n = 0; n < FUZZ_ENTRIES; n++) table_.fill(options_.seed, n);
    std::jthread filler(
        [this](const std::stop_token& stop) { keep_filling(stop); });
    const auto deadline = begin + std::chrono::seconds(options_.seconds);
    while (table_.sqes() < options_.sqes) {
      if (std::chrono::steady_clock::now() > deadline)
        return fail(ETIMEDOUT, "{} of {} SQEs in {} s", table_.sqes(),
                    options_.sqes, options_.seconds);
      step();
      std::this_thread::sleep_for(std::chrono::milliseconds(random_() % 200));
    }
    seconds_ =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
            .count();
    note("detach", control_.detach_bpf(options_.dev_id));
    return {};
  }

  std::string json() const {
    const nlohmann::json result = {
        {"runs", table_.runs()},         {"sqes", table_.sqes()},
        {"accepted", table_.accepted()}, {"seconds", seconds_},
        {"attached", attached_},         {"errors", errors_}};
    return result.dump();
  }

 private:
  Fuzz(const Options& options, Control control, ProgramObject object,
       Table table)
      : options_(options),
        control_(std::move(control)),
        object_(std::move(object)),
        table_(table),
        random_(options.seed) {}

  // An entry changes once it has been used, and some while they are.
  void keep_filling(const std::stop_token& stop) {
    std::mt19937_64 random(options_.seed + 1);
    uint64_t filled = 0;
    while (!stop.stop_requested()) {
      for (const uint64_t runs = table_.runs(); filled < runs; filled++)
        table_.fill(options_.seed, filled + FUZZ_ENTRIES);
      if (random() % 4 == 0) table_.scribble(random);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void step() {
    if (random_() % 6 == 0) {
      note("detach", control_.detach_bpf(options_.dev_id));
      return;
    }
    const auto done = attach();
    attached_ += done.has_value();
    note("attach", done);
  }

  Result<void> attach() {
    static constexpr std::array<uint32_t, 4> kFlags = {
        0, 0, UBLK_BPF_ATTACH_F_NO_INLINE, UBLK_BPF_ATTACH_F_INLINE_REG};
    ublk_bpf_attach arg{};
    arg.prog_fd = object_.fd();
    arg.flags = UBLK_BPF_ATTACH_F_REPLACE | kFlags[random_() % kFlags.size()];
    std::ranges::shuffle(options_.files, random_);
    std::vector<UniqueFd> fds;
    const size_t nr = random_() % 8 ? options_.files.size()
                                    : random_() % (options_.files.size() + 1);
    for (size_t i = 0; i < nr; i++) {
      fds.push_back(TRY(open(options_.files[i])));
      arg.fds[arg.nr_files++] = fds.back().get();
    }
    return control_.attach_bpf(options_.dev_id, arg);
  }

  static Result<UniqueFd> open(const std::string& file) {
    const auto colon = file.find(':');
    if (colon == std::string::npos)
      return fail(EINVAL, "{}: is not MODE:PATH", file);
    const std::string mode = file.substr(0, colon);
    return UniqueFd::open(file.substr(colon + 1),
                          (mode.contains('r') ? O_RDONLY : O_RDWR) |
                              (mode.contains('d') ? O_DIRECT : 0));
  }

  void note(const char* what, const Result<void>& done) {
    if (!done) errors_[fmt("{} {}", what, done.error().code_name())]++;
  }

  Options options_;
  Control control_;
  ProgramObject object_;
  Table table_;
  std::mt19937_64 random_;
  uint64_t attached_ = 0;
  double seconds_ = 0;
  std::map<std::string, uint64_t> errors_;
};

Result<std::string> run(const Options& options) {
  Fuzz fuzz = TRY(Fuzz::create(options));
  TRY(fuzz.run());
  return fuzz.json();
}

}  // namespace
}  // namespace ublk

int main(int argc, char** argv) {
  ublk::Options options;
  CLI::App app("attaches fuzz.bpf.o and makes its random SQEs");
  app.add_option("--dev", options.dev_id)->required();
  app.add_option("--seed", options.seed);
  app.add_option("--sqes", options.sqes);
  app.add_option("--seconds", options.seconds, "give up after");
  app.add_option("--file", options.files, "MODE:PATH")
      ->required()
      ->expected(1, UBLK_BPF_MAX_FILES);
  app.add_option("object", options.object)->required();
  CLI11_PARSE(app, argc, argv);
  const auto done = ublk::run(options);
  if (!done) {
    std::fprintf(stderr, "fuzz-attach: %s\n", done.error().line().c_str());
    return 1;
  }
  std::printf("%s\n", done->c_str());
  return 0;
}
