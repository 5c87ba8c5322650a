// SPDX-License-Identifier: MIT
//
// Follows constants through all ways that a function can take, as a verifier
// does, but only those that end up in an SQE: registers, and each byte of the
// frame, where programs build their SQEs.

#include "prog/scan.h"

#include <linux/io_uring.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cerrno>
#include <cstddef>
#include <map>

#include "prog/elf_code.h"
#include "prog/scan_value.h"
#include "ublk_bpf.h"

namespace ublk {

namespace {

using Kind = ScanValue::Kind;
using Queued = std::set<QueuedSqe>;

constexpr int kFrameBytes = 512;
constexpr int kRegisters = 11;
constexpr int kFramePointer = 10;
constexpr const char* kQueueSqe = "bpf_ublk_queue_sqe";
constexpr const char* kCompletionHalf = "_complete";
// No program of the tree needs a tenth of it.
constexpr uint64_t kMostSteps = 100'000;

using ByteSet = std::bitset<256>;

const QueuedSqe kAnything{};

// What is in the frame as it was in a register.
struct Kept {
  int bytes = 0;
  ScanValue value{};
  bool operator==(const Kept&) const = default;
};

struct State {
  std::array<ScanValue, kRegisters> registers{};
  std::array<ByteSet, kFrameBytes> frame{};
  // Addresses in the frame, and the operation, by where.
  std::map<int64_t, Kept> kept{};
  ScanValue op = ScanValue::any(UINT8_MAX);

  // Whether this one has become more.
  bool join(const State& other);
  void store(const ScanValue& address, int bytes, const ScanValue& value);
  ScanValue load(const ScanValue& address, int bytes) const;
  ScanValue loaded_op() const;
  // Somebody else may write to all of it.
  void forget_frame();
  ScanValue frame_value(int64_t offset, int bytes) const;
};

bool is_in_frame(int64_t offset, int bytes) {
  return offset >= -kFrameBytes && offset + bytes <= 0;
}

size_t frame_index(int64_t offset) {
  return static_cast<size_t>(offset + kFrameBytes);
}

bool State::join(const State& other) {
  bool more = false;
  const auto take = [&](ScanValue& mine, const ScanValue& theirs) {
    ScanValue both = mine.joined(theirs);
    more |= both != mine;
    mine = std::move(both);
  };
  for (size_t i = 0; i < registers.size(); i++)
    take(registers[i], other.registers[i]);
  take(op, other.op);
  for (size_t i = 0; i < frame.size(); i++) {
    const ByteSet both = frame[i] | other.frame[i];
    more |= both != frame[i];
    frame[i] = both;
  }
  more |= std::erase_if(kept, [&](const auto& mine) {
            const auto theirs = other.kept.find(mine.first);
            return theirs == other.kept.end() || theirs->second != mine.second;
          }) > 0;
  return more;
}

void State::forget_frame() {
  for (ByteSet& byte : frame) byte.set();
  kept.clear();
}

void State::store(const ScanValue& address, int bytes, const ScanValue& value) {
  if (address.kind != Kind::stack) return;
  if (!address.offset || !is_in_frame(*address.offset, bytes))
    return forget_frame();
  const int64_t at = *address.offset;
  std::erase_if(kept, [&](const auto& one) {
    return one.first + one.second.bytes > at && one.first < at + bytes;
  });
  if (value.is_op) {
    kept[at].bytes = bytes;
    kept[at].value.is_op = true;  // which it is, `op` knows
  } else if (value.kind != Kind::scalar && bytes == 8) {
    kept[at] = {.bytes = bytes, .value = value};
  }
  for (int i = 0; i < bytes; i++) {
    ByteSet& byte = frame[frame_index(at + i)];
    if (!value.is_known()) {
      byte.set();
      continue;
    }
    byte.reset();
    for (const uint64_t each : value.values) byte.set(each >> 8 * i & 0xff);
  }
}

ScanValue State::frame_value(int64_t offset, int bytes) const {
  const uint64_t most =
      bytes == 8 ? UINT64_MAX : (uint64_t{1} << 8 * bytes) - 1;
  constexpr size_t kMost = 64;
  std::vector<uint64_t> values = {0};
  for (int i = 0; i < bytes; i++) {
    const ByteSet& byte = frame[frame_index(offset + i)];
    if (byte.count() * values.size() > kMost) return ScanValue::any(most);
    std::vector<uint64_t> longer;
    for (const uint64_t value : values)
      for (uint64_t each = 0; each < byte.size(); each++)
        if (byte[each]) longer.push_back(value | each << 8 * i);
    values = std::move(longer);
  }
  return ScanValue::of(std::move(values), most);
}

ScanValue State::loaded_op() const {
  ScanValue value = op;
  value.is_op = true;
  return value;
}

ScanValue State::load(const ScanValue& address, int bytes) const {
  if (address.kind == Kind::context && bytes == 1 &&
      address.offset == offsetof(struct ublk_bpf_ctx, op))
    return loaded_op();
  if (address.kind == Kind::stack && address.offset &&
      is_in_frame(*address.offset, bytes)) {
    const auto found = kept.find(*address.offset);
    if (found != kept.end() && bytes == found->second.bytes)
      return found->second.value.is_op ? loaded_op() : found->second.value;
    return frame_value(*address.offset, bytes);
  }
  // An address in the frame that was kept elsewhere in it, who knows where.
  if (address.kind == Kind::stack && bytes == 8)
    return ScanValue::address(Kind::stack, std::nullopt);
  return ScanValue::any(bytes == 8 ? UINT64_MAX
                                   : (uint64_t{1} << 8 * bytes) - 1);
}

int bytes_of(uint8_t code) {
  switch (BPF_SIZE(code)) {
    case BPF_B:
      return 1;
    case BPF_H:
      return 2;
    case BPF_W:
      return 4;
    default:
      return 8;
  }
}

ScanValue immediate(const bpf_insn& insn) {
  return ScanValue::constant(
      static_cast<uint64_t>(static_cast<int64_t>(insn.imm)));
}

// One function, with any arguments but the context in r1 if it is a program.
class Scan {
 public:
  Scan(const ElfCode::Function& function, Queued& queued)
      : function_(function), queued_(queued) {}

  Result<void> run(bool is_program);

 private:
  // From one instruction to where the next ones are known.
  Result<void> walk(uint32_t at);
  void arithmetic(const bpf_insn& insn);
  void memory(const bpf_insn& insn);
  void call(uint32_t at);
  void queue_sqe();
  void branch(const bpf_insn& insn, int64_t taken, int64_t other);
  void go(int64_t to, const State& state);
  ScanValue& reg(int number) { return state_.registers[number]; }

  const ElfCode::Function& function_;
  Queued& queued_;
  State state_;
  std::map<uint32_t, State> there_;  // what was found where ways meet
  std::set<uint32_t> open_;          // whence to walk again
  uint64_t steps_ = 0;
  bool outside_ = false;  // a way leads out of the function
};

void Scan::go(int64_t to, const State& state) {
  if (to < 0 || to >= static_cast<int64_t>(function_.insns.size())) {
    outside_ = true;
    return;
  }
  const auto at = static_cast<uint32_t>(to);
  const auto [found, is_new] = there_.try_emplace(at, state);
  if (is_new || found->second.join(state)) open_.insert(at);
}

void Scan::queue_sqe() {
  const ScanValue sqe = reg(2);
  constexpr int kBytes = sizeof(struct io_uring_sqe);
  if (sqe.kind != Kind::stack || !sqe.offset ||
      !is_in_frame(*sqe.offset, kBytes)) {
    queued_.insert(kAnything);
    return;
  }
  const auto opcodes = state_.frame_value(
      *sqe.offset + int64_t{offsetof(struct io_uring_sqe, opcode)}, 1);
  const auto files = state_.frame_value(
      *sqe.offset + int64_t{offsetof(struct io_uring_sqe, fd)}, 4);
  std::vector<std::optional<uint8_t>> all_opcodes;
  for (const uint64_t value : opcodes.values)
    all_opcodes.emplace_back(static_cast<uint8_t>(value));
  std::vector<std::optional<int32_t>> all_files;
  for (const uint64_t value : files.values)
    all_files.emplace_back(static_cast<int32_t>(value));
  if (all_opcodes.empty()) all_opcodes.emplace_back();
  if (all_files.empty()) all_files.emplace_back();
  for (const auto& opcode : all_opcodes)
    for (const auto& file : all_files)
      queued_.insert({.opcode = opcode, .file = file});
}

void Scan::call(uint32_t at) {
  const bpf_insn& insn = function_.insns[at];
  const auto outside = function_.outside.find(at);
  const bool is_queue =
      outside != function_.outside.end() && outside->second == kQueueSqe;
  const bool is_helper = insn.src_reg == 0;
  if (is_queue)
    queue_sqe();
  else if (is_helper && insn.imm == BPF_FUNC_tail_call)
    queued_.insert(kAnything);
  const bool only_reads =
      is_queue || (is_helper && (insn.imm == BPF_FUNC_map_lookup_elem ||
                                 insn.imm == BPF_FUNC_map_update_elem ||
                                 insn.imm == BPF_FUNC_map_delete_elem));
  for (int i = 1; i <= 5; i++)
    if (!only_reads && reg(i).kind == Kind::stack) state_.forget_frame();
  for (int i = 0; i <= 5; i++) reg(i) = ScanValue::any();
}

void Scan::arithmetic(const bpf_insn& insn) {
  const ScanValue by =
      BPF_SRC(insn.code) == BPF_X ? reg(insn.src_reg) : immediate(insn);
  const bool is_plain = insn.off == 0 && BPF_OP(insn.code) != BPF_END;
  ScanValue& to = reg(insn.dst_reg);
  // A move with sign, a division with sign, a swap of bytes.
  to = is_plain ? scan_arithmetic(insn.code, to, by)
       : to.kind == Kind::stack || by.kind == Kind::stack
           ? ScanValue::address(Kind::stack, std::nullopt)
           : ScanValue::any();
}

void Scan::memory(const bpf_insn& insn) {
  const int bytes = bytes_of(insn.code);
  const bool is_load = BPF_CLASS(insn.code) == BPF_LDX;
  ScanValue address = reg(is_load ? insn.src_reg : insn.dst_reg);
  if (address.offset) *address.offset += insn.off;
  if (is_load) {
    reg(insn.dst_reg) = BPF_MODE(insn.code) == BPF_MEM
                            ? state_.load(address, bytes)
                            : ScanValue::any();
  } else if (BPF_MODE(insn.code) == BPF_ATOMIC) {
    state_.store(address, bytes, ScanValue::any());
    if (insn.imm & BPF_FETCH)
      reg(insn.imm == BPF_CMPXCHG ? 0 : insn.src_reg) = ScanValue::any();
  } else {
    state_.store(
        address, bytes,
        BPF_CLASS(insn.code) == BPF_ST ? immediate(insn) : reg(insn.src_reg));
  }
}

void Scan::branch(const bpf_insn& insn, int64_t taken, int64_t other) {
  const ScanValue by =
      BPF_SRC(insn.code) == BPF_X ? reg(insn.src_reg) : immediate(insn);
  for (const bool is_taken : {true, false}) {
    const auto left = scan_compared(insn.code, reg(insn.dst_reg), by, is_taken);
    if (!left) continue;
    State state = state_;
    state.registers[insn.dst_reg] = *left;
    if (left->is_op) {
      state.op = *left;
      state.op.is_op = false;
      for (ScanValue& each : state.registers)
        if (each.is_op) each = *left;
    }
    go(is_taken ? taken : other, state);
  }
}

Result<void> Scan::walk(uint32_t first) {
  state_ = there_.at(first);
  for (uint32_t at = first; at < function_.insns.size(); at++) {
    // Here another way comes in.
    if (at != first && there_.contains(at)) {
      go(at, state_);
      return {};
    }
    if (++steps_ > kMostSteps) return fail(ENOEXEC, "takes too many ways");
    const bpf_insn& insn = function_.insns[at];
    const int64_t next = int64_t{at} + 1;
    switch (BPF_CLASS(insn.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        arithmetic(insn);
        break;
      case BPF_LD:
        if (insn.code != (BPF_LD | BPF_IMM | BPF_DW) ||
            next == static_cast<int64_t>(function_.insns.size()))
          return fail(ENOEXEC, "instruction {} is not known", at);
        reg(insn.dst_reg) =
            function_.addresses.contains(at)
                ? ScanValue::any()
                : ScanValue::constant(static_cast<uint32_t>(insn.imm) |
                                      uint64_t{static_cast<uint32_t>(
                                          function_.insns[at + 1].imm)}
                                          << 32);
        at++;
        break;
      case BPF_JMP:
      case BPF_JMP32:
        if (BPF_OP(insn.code) == BPF_CALL) {
          call(at);
          break;
        }
        if (BPF_OP(insn.code) == BPF_EXIT) return {};
        if (BPF_OP(insn.code) == BPF_JA)
          go(next + (BPF_CLASS(insn.code) == BPF_JMP ? insn.off : insn.imm),
             state_);
        else
          branch(insn, next + insn.off, next);
        return {};
      default:
        memory(insn);
    }
  }
  return fail(ENOEXEC, "has no end");
}

Result<void> Scan::run(bool is_program) {
  for (const bpf_insn& insn : function_.insns)
    if (insn.dst_reg >= kRegisters || insn.src_reg >= kRegisters)
      return fail(ENOEXEC, "has registers that are not known");
  State begin;
  begin.forget_frame();
  begin.registers[kFramePointer] = ScanValue::address(Kind::stack, 0);
  if (is_program) begin.registers[1] = ScanValue::address(Kind::context, 0);
  go(0, begin);
  while (!open_.empty()) {
    const uint32_t at = *open_.begin();
    open_.erase(open_.begin());
    TRY(walk(at));
  }
  if (outside_) return fail(ENOEXEC, "jumps out of itself");
  return {};
}

}  // namespace

Result<std::set<QueuedSqe>> scan_queued(const std::string& path,
                                        const std::string& program) {
  const ElfCode code = TRY(ElfCode::read(path));
  const auto first = code.find(program);
  if (!first) return fail(ENOENT, "{}: has no program {}", path, program);
  std::set<ElfCode::Place> programs = {*first};
  if (const auto half = code.find(program + kCompletionHalf))
    programs.insert(*half);
  Queued queued;
  std::set<ElfCode::Place> seen = programs;
  std::vector<ElfCode::Place> open(programs.begin(), programs.end());
  while (!open.empty()) {
    const ElfCode::Place at = open.back();
    open.pop_back();
    const auto function = TRY(code.function(at));
    TRY_IN(path, Scan(function, queued).run(programs.contains(at)));
    for (const auto& [index, to] : function.inside)
      if (seen.insert(to).second) open.push_back(to);
  }
  // Where it can be any file, it need not be said that it can be this one.
  std::erase_if(queued, [&](const QueuedSqe& sqe) {
    return sqe.file && queued.contains({.opcode = sqe.opcode, .file = {}});
  });
  return queued;
}

std::string opcode_name(uint8_t opcode) {
  switch (opcode) {
    case IORING_OP_NOP:
      return "NOP";
    case IORING_OP_READ:
      return "READ";
    case IORING_OP_READ_FIXED:
      return "READ_FIXED";
    case IORING_OP_WRITE:
      return "WRITE";
    case IORING_OP_WRITE_FIXED:
      return "WRITE_FIXED";
    case IORING_OP_FSYNC:
      return "FSYNC";
    case IORING_OP_FALLOCATE:
      return "FALLOCATE";
    default:
      return fmt("opcode {}", opcode);
  }
}

namespace {

std::string files_text(const std::set<std::optional<int32_t>>& files) {
  if (files.contains(std::nullopt)) return "computed files";
  std::string text;
  for (const auto& file : files)
    text += (text.empty() ? "" : ", ") + std::to_string(*file);
  return (files.size() == 1 ? "file " : "files ") + text;
}

}  // namespace

std::string queued_text(const std::set<QueuedSqe>& queued) {
  if (queued.empty()) return "nothing";
  std::map<std::optional<uint8_t>, std::set<std::optional<int32_t>>> files;
  for (const auto& [opcode, file] : queued) files[opcode].insert(file);
  // Those on the same files together, in the order of the first of each.
  std::vector<std::pair<std::string, std::string>> groups;
  for (const auto& [opcode, on] : files) {
    const std::string where = files_text(on);
    const std::string what = opcode ? opcode_name(*opcode) : "computed opcodes";
    const auto same = std::ranges::find(
        groups, where, &std::pair<std::string, std::string>::second);
    if (same == groups.end())
      groups.emplace_back(what, where);
    else
      same->first += ", " + what;
  }
  std::string text;
  for (const auto& [what, where] : groups)
    text += fmt("{}{} on {}", text.empty() ? "" : "; ", what, where);
  return text;
}

}  // namespace ublk
