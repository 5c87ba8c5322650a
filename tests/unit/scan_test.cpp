// SPDX-License-Identifier: MIT
//
// On objects that the tree's own compiler rules have made.

#include "prog/scan.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/author_commands.h"
#include "cli/command_line.h"
#include "prog/object.h"
#include "prog/scan_value.h"

namespace ublk {
namespace {

std::string path_of(const std::string& name) {
  return std::string(UBLK_BPF_OBJECTS) + "/" + name + ".bpf.o";
}

std::string name_of(const std::string& object) {
  return object.substr(object.rfind('/') + 1);
}

TEST(Scan, FindsWhatAProgramMayQueueOnWhichFile) {
  constexpr const char* kAllOnOne = "FSYNC, FALLOCATE, READ, WRITE on file 0";
  constexpr const char* kAllOnTwo =
      "FSYNC, FALLOCATE, READ, WRITE on files 0, 1";
  const std::pair<const char*, const char*> cases[] = {
      {"bpf/null", "nothing"},
      {"bpf/loop", kAllOnOne},
      {"bpf/latency", kAllOnOne},
      {"bpf/concat", kAllOnTwo},
      {"bpf/mirror", kAllOnTwo},
      // As many as its user says.
      {"bpf/stripe", "FSYNC, FALLOCATE, READ, WRITE on computed files"},
      {"tests/programs/linked",
       "FSYNC, WRITE on files 0, 1; FALLOCATE, READ on file 1"},
      // The operation of the request goes through its frame.
      {"tests/programs/mypolicy", "FSYNC, READ, WRITE on file 0"},
      // The completion half, too.
      {"tests/programs/complete", kAllOnTwo},
      // In a function that is not inlined.
      {"tests/programs/subprog", kAllOnOne},
      {"tests/programs/fuzz", "computed opcodes on computed files"},
  };
  for (const auto& [object, text] : cases) {
    const auto queued = scan_queued(path_of(object), name_of(object));
    ASSERT_TRUE(queued) << queued.error().line();
    EXPECT_EQ(queued_text(*queued), text) << object;
  }
}

TEST(Scan, SaysThatAnOpcodeOrFileFromAMapIsComputed) {
  const auto queued = scan_queued(path_of("bpf/clone"), "clone");
  ASSERT_TRUE(queued) << queued.error().line();
  EXPECT_TRUE(queued->contains({.opcode = 22, .file = std::nullopt}));
  EXPECT_FALSE(queued->contains({.opcode = 22, .file = 0}));
  EXPECT_TRUE(queued->contains({.opcode = 23, .file = 0}));
}

TEST(Scan, FollowsEveryProgramOfTheTree) {
  size_t count = 0;
  for (const char* dir : {"/bpf", "/tests/programs"})
    for (const auto& entry : std::filesystem::directory_iterator(
             std::string(UBLK_BPF_OBJECTS) + dir)) {
      if (entry.path().extension() != ".o") continue;
      const auto object = ProgramObject::open(entry.path(), FaceInfo{});
      if (!object) continue;  // some are bad by intent
      for (const std::string& program : object->programs()) {
        const auto queued = scan_queued(entry.path(), program);
        EXPECT_TRUE(queued) << queued.error().line();
        count++;
      }
    }
  EXPECT_GT(count, 30U);
}

TEST(Scan, RefusesWhatItCannotFollow) {
  EXPECT_EQ(scan_queued(path_of("bpf/loop"), "pool").error().code(), ENOENT);
  const std::string path = testing::TempDir() + "cut.bpf.o";
  std::ifstream in(path_of("bpf/loop"), std::ios::binary);
  const std::string loop((std::istreambuf_iterator<char>(in)), {});
  // Nothing of a file that is cut short, or damaged, is looked for outside it.
  for (size_t size = 0; size < loop.size(); size += 97) {
    std::ofstream(path, std::ios::binary) << loop.substr(0, size);
    EXPECT_FALSE(scan_queued(path, "loop")) << size;
  }
  for (size_t at = 0; at < loop.size(); at += 13) {
    std::string bad = loop;
    bad[at] = static_cast<char>(~bad[at]);
    std::ofstream(path, std::ios::binary) << bad;
    (void)scan_queued(path, "loop");  // whatever it says, it ends
  }
}

TEST(Scan, KnowsAFewValuesAndABoundOfTheOthers) {
  const ScanValue byte = ScanValue::any(255);
  EXPECT_FALSE(byte.is_known());
  const uint8_t above = BPF_JMP32 | BPF_JGT | BPF_K;
  const auto op = scan_compared(above, byte, ScanValue::constant(1), false);
  ASSERT_TRUE(op);
  EXPECT_EQ(op->values, (std::vector<uint64_t>{0, 1}));
  const auto read_or_write =
      scan_arithmetic(BPF_ALU | BPF_ADD | BPF_K, *op, ScanValue::constant(22));
  EXPECT_EQ(read_or_write.values, (std::vector<uint64_t>{22, 23}));
  EXPECT_FALSE(scan_compared(above, *op, ScanValue::constant(1), true));
  // A counter that goes round a loop has a value of any size in the end.
  ScanValue counter = ScanValue::constant(0);
  for (int i = 0; i < 40; i++)
    counter = counter.joined(scan_arithmetic(BPF_ALU64 | BPF_ADD | BPF_K,
                                             counter, ScanValue::constant(1)));
  EXPECT_FALSE(counter.is_known());
  EXPECT_EQ(counter.most, UINT64_MAX);
}

TEST(Check, SaysWhatAProgramMayQueue) {
  cli::Options options;
  options.attach.object = path_of("bpf/loop");
  const auto said = [&] {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    (void)cli::run_check(options);  // a kernel may refuse it
    (void)testing::internal::GetCapturedStderr();
    return testing::internal::GetCapturedStdout();
  };
  EXPECT_TRUE(said().contains(
      "program loop queues FSYNC, FALLOCATE, READ, WRITE on file 0\n"));
  options.json = true;
  const auto queues = nlohmann::json::parse(said())["programs"][0]["queues"];
  ASSERT_EQ(queues.size(), 4U);
  EXPECT_EQ(queues[3]["opcode"], "WRITE");
  EXPECT_EQ(queues[3]["file"], 0);
  options.attach.object = path_of("bpf/stripe");
  EXPECT_TRUE(nlohmann::json::parse(said())["programs"][0]["queues"][0]["file"]
                  .is_null());
}

}  // namespace
}  // namespace ublk
