// SPDX-License-Identifier: MIT
#include "cli/command_line.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace ublk::cli {
namespace {

Parsed parsed(std::vector<const char*> args) {
  args.insert(args.begin(), "ublk-bpf");
  return parse(static_cast<int>(args.size()), args.data());
}

using Args = std::vector<const char*>;

TEST(CommandLine, UsedWronglySaysWhat) {
  const Args cases[] = {
      {},
      {"frobnicate"},
      {"add"},
      {"add", "-t"},
      {"add", "-t", "null", "-q", "0"},
      {"add", "-t", "null", "-q", "4097"},
      {"add", "-t", "null", "-d", "0"},
      {"add", "-t", "null", "-d", "5000"},
      {"add", "-t", "null", "-n", "-1"},
      {"add", "-t", "null", "-n", "x"},
      {"add", "-t", "null", "-r", "2"},
      {"add", "-t", "null", "--block-size", "8192"},
      {"add", "-t", "null", "--bogus"},
      {"attach", "x.o"},
      {"attach", "-n", "0"},
      {"attach", "-n", "0", "x.o", "y.o"},
      {"attach", "-n", "0", "x.o", "--file"},
      {"detach"},
      {"stat", "0", "0"},
      {"stat", "-n", "0", "--interval", "-1"},
      {"recover"},
      {"layer"},
      {"layer", "frobnicate"},
      {"layer", "info"},
      {"layer", "info", "a", "b"},
      {"layer", "info", "a", "--deadline", "5"},
  };
  for (const Args& args : cases) {
    const Parsed p = parsed(args);
    std::string line;
    for (const char* arg : args) line += std::string(" ") + arg;
    EXPECT_EQ(p.status, kUsedWrongly) << line;
    EXPECT_FALSE(p.text.empty()) << line;
  }
}

TEST(CommandLine, AnOptionThatMayBeRepeatedTakesOneValueAtATime) {
  for (const Args& args : {Args{"attach", "-n", "0", "--file", "a", "--set",
                                "k=1", "--file", "b", "x.o", "--json"},
                           Args{"attach", "--file", "a", "--file", "b", "--set",
                                "k=1", "x.o", "-n", "0"},
                           Args{"attach", "x.o", "--file", "a", "--file", "b",
                                "--set", "k=1", "-n", "0"}}) {
    const Parsed p = parsed(args);
    EXPECT_EQ(p.text, "");
    EXPECT_EQ(p.options.attach.object, "x.o");
    EXPECT_EQ(p.options.attach.files, (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(p.options.attach.knobs, (std::vector<std::string>{"k=1"}));
  }
}

TEST(CommandLine, OfWhatHasAPlaceThereMayBeSeveral) {
  const Parsed p = parsed({"bench", "compare", "a.json", "b.json", "--json"});
  EXPECT_EQ(p.text, "");
  EXPECT_EQ(p.options.bench.results,
            (std::vector<std::string>{"a.json", "b.json"}));
}

TEST(CommandLine, NamesACommandThatThereIsNot) {
  for (const Args& args : {Args{"frobnicate"}, Args{"--json", "frobnicate"},
                           Args{"frobnicate", "--json", "-n", "0"}})
    EXPECT_EQ(parsed(args).text, "'frobnicate': is not a command");
  // Of a command that there is, what is wrong with it is said.
  EXPECT_EQ(parsed({"detach"}).text.find("'detach'"), std::string::npos);
}

TEST(CommandLine, JsonMayComeBeforeTheCommand) {
  for (const Args& args : {Args{"--json", "list"}, Args{"list", "--json"},
                           Args{"--json", "list", "--json"}}) {
    const Parsed p = parsed(args);
    EXPECT_EQ(p.text, "");
    EXPECT_EQ(p.options.command, "list");
    EXPECT_TRUE(p.options.json);
  }
  EXPECT_FALSE(parsed({"list"}).options.json);
}

TEST(CommandLine, HelpAndVersionAreNoError) {
  std::vector<Args> cases = {{"--help"}, {"--version"}};
  for (const Command& command : commands())
    cases.push_back({command.name, "--help"});
  for (const Args& args : cases) {
    const Parsed p = parsed(args);
    EXPECT_EQ(p.status, kDone) << args[0];
    EXPECT_NE(p.text.find("ublk-bpf"), std::string::npos) << args[0];
  }
}

TEST(CommandLine, EveryCommandHasAnExampleAndJson) {
  for (const Command& command : commands()) {
    const std::string name = command.name;
    const size_t space = name.find(' ');
    Args args = {name.c_str(), "--help"};
    const std::string group = name.substr(0, space);
    if (space != std::string::npos)
      args = {group.c_str(), name.c_str() + space + 1, "--help"};
    const std::string help = parsed(args).text;
    EXPECT_NE(help.find("Example"), std::string::npos) << command.name;
    EXPECT_NE(help.find("--json"), std::string::npos) << command.name;
  }
}

TEST(CommandLine, DeviceGoesByEitherName) {
  for (const char* command : {"detach", "del", "recover", "list"})
    for (const char* name : {"-n", "--dev"}) {
      const Parsed p = parsed({command, name, "7", "--json"});
      EXPECT_EQ(p.text, "") << command;
      EXPECT_EQ(p.options.command, command);
      EXPECT_EQ(p.options.dev_id, 7);
      EXPECT_TRUE(p.options.json);
    }
}

Result<AddRequest> add(Args args) {
  args.insert(args.begin(), {"add"});
  const Parsed p = parsed(args);
  if (!p.text.empty()) return fail(EINVAL, "{}", p.text);
  auto all = add_requests(p.options.add);
  if (!all) return std::unexpected(all.error());
  EXPECT_EQ(all->size(), 1U);
  return all->front();
}

TEST(Add, CanBeSeveralInOneServer) {
  const Parsed two = parsed({"add", "-t", "loop", "-f", "/a", "-f", "/b"});
  auto requests = add_requests(two.options.add);
  ASSERT_TRUE(requests) << requests.error().line();
  ASSERT_EQ(requests->size(), 2U);
  EXPECT_EQ((*requests)[0].target.files, std::vector<std::string>{"/a"});
  EXPECT_EQ((*requests)[1].target.files, std::vector<std::string>{"/b"});
  EXPECT_EQ((*requests)[1].dev_id, ~0U);
  const Parsed many = parsed({"add", "-t", "null", "--count", "3", "-n", "7"});
  requests = add_requests(many.options.add);
  ASSERT_TRUE(requests) << requests.error().line();
  ASSERT_EQ(requests->size(), 3U);
  EXPECT_EQ((*requests)[2].dev_id, 9U);
  const Parsed both = parsed({"add", "-t", "loop", "-f", "/a", "--count", "2"});
  EXPECT_FALSE(add_requests(both.options.add));
}

TEST(Add, AMirrorHasTwoFiles) {
  const Parsed two = parsed({"add", "-t", "mirror", "-f", "/a", "-f", "/b",
                             "-f", "/c", "-f", "/d", "-n", "3"});
  const auto requests = add_requests(two.options.add);
  ASSERT_TRUE(requests) << requests.error().line();
  ASSERT_EQ(requests->size(), 2U);
  EXPECT_EQ((*requests)[1].target.files,
            (std::vector<std::string>{"/c", "/d"}));
  EXPECT_EQ((*requests)[1].dev_id, 4U);
  const Parsed odd = parsed({"add", "-t", "mirror", "-f", "/a"});
  EXPECT_FALSE(add_requests(odd.options.add));
}

TEST(Add, HasDefaults) {
  const auto request = add({"-t", "null"});
  ASSERT_TRUE(request);
  EXPECT_EQ(request->dev_id, ~0U);
  EXPECT_EQ(request->nr_hw_queues, 1);
  EXPECT_EQ(request->queue_depth, 128);
  EXPECT_EQ(request->recovery_flags, 0U);
  EXPECT_TRUE(request->bpf);
  EXPECT_EQ(request->target.max_io_bytes, 1U << 20);
  EXPECT_EQ(request->target.block_bytes, 0U);
}

TEST(Add, TakesEverything) {
  const auto request =
      add({"-t",       "loop",     "-f",       "/x",          "-n",
           "3",        "-q",       "2",        "-d",          "64",
           "--size",   "1G",       "--offset", "4K",          "--block-size",
           "4096",     "--max-io", "64K",      "--read-only", "--buffered",
           "--no-bpf", "--chunk",  "256K"});
  ASSERT_TRUE(request) << request.error().line();
  EXPECT_EQ(request->dev_id, 3U);
  EXPECT_EQ(request->nr_hw_queues, 2);
  EXPECT_EQ(request->queue_depth, 64);
  EXPECT_FALSE(request->bpf);
  const TargetSpec& spec = request->target;
  EXPECT_EQ(spec.files, std::vector<std::string>{"/x"});
  EXPECT_EQ(spec.size_bytes, 1ULL << 30);
  EXPECT_EQ(spec.offset_bytes, 4096U);
  EXPECT_EQ(spec.block_bytes, 4096U);
  EXPECT_EQ(spec.max_io_bytes, 65536U);
  EXPECT_EQ(spec.chunk_bytes, 262144U);
  EXPECT_TRUE(spec.read_only);
  EXPECT_TRUE(spec.buffered);
}

TEST(Add, MakesFilesAbsolute) {
  EXPECT_EQ(add({"-t", "loop", "-f", "disk.img"})->target.files[0][0], '/');
}

struct RecoveryCase {
  Args args;
  uint64_t flags;
};

TEST(Add, TakesRecoveryBareOrWithANumber) {
  constexpr uint64_t r = UBLK_F_USER_RECOVERY;
  const RecoveryCase cases[] = {
      {{}, 0},
      {{"-r"}, r},
      {{"-r", "1"}, r},
      {{"-r", "0"}, 0},
      {{"-i"}, r | UBLK_F_USER_RECOVERY_REISSUE},
      {{"-r", "1", "-i", "1"}, r | UBLK_F_USER_RECOVERY_REISSUE},
      {{"-r", "-i"}, r | UBLK_F_USER_RECOVERY_REISSUE},
      {{"-e"}, r | UBLK_F_USER_RECOVERY_FAIL_IO},
      {{"-r", "1", "-e", "1"}, r | UBLK_F_USER_RECOVERY_FAIL_IO},
      {{"-r", "1", "-i", "0"}, r},
  };
  for (const auto& [more, flags] : cases) {
    Args args = {"-t", "null"};
    args.insert(args.end(), more.begin(), more.end());
    const auto request = add(args);
    ASSERT_TRUE(request) << request.error().line();
    EXPECT_EQ(request->recovery_flags, flags);
  }
}

struct DataPathCase {
  Args args;
  const char* path;
};

TEST(Add, TakesTheDataPathByNameAndByTheFlagsOfOtherTools) {
  const DataPathCase cases[] = {
      {{}, "auto"},
      {{"--data-path", "auto"}, "auto"},
      {{"--data-path", "copy"}, "copy"},
      {{"-u"}, "user-copy"},
      {{"--usercopy"}, "user-copy"},
      {{"-g"}, "need-get-data"},
      {{"-g", "1"}, "need-get-data"},
      {{"-g", "0"}, "auto"},
      {{"-z"}, "zero-copy"},
      {{"--auto_zc"}, "auto-zero-copy"},
      {{"-z", "--auto-zc"}, "auto-zero-copy"},
      {{"-z", "--data-path", "zero-copy"}, "zero-copy"},
  };
  for (const auto& [more, path] : cases) {
    Args args = {"-t", "null"};
    args.insert(args.end(), more.begin(), more.end());
    const auto request = add(args);
    ASSERT_TRUE(request) << request.error().line();
    EXPECT_EQ(request->data_path, path);
  }
}

TEST(Add, RefusesWhatDoesNotGoTogether) {
  const Args cases[] = {
      {"-t", "tape"},
      {"-t", "loop"},
      {"-t", "null", "-f", "/x"},
      {"-t", "null", "--offset", "4K"},
      {"-t", "null", "--size", "12x"},
      {"-t", "null", "--size", "100"},
      {"-t", "null", "--block-size", "4096", "--size", "512"},
      {"-t", "null", "--block-size", "1000"},
      {"-t", "null", "--max-io", "512"},
      {"-t", "null", "--max-io", "64M"},
      {"-t", "null", "--max-io", "5000"},
      {"-t", "null", "-i", "-e"},
      {"-t", "null", "-u", "-z"},
      {"-t", "null", "-g", "--auto-zc"},
      {"-t", "null", "-z", "--data-path", "copy"},
      {"-t", "null", "--data-path", "teleport"},
      {"-t", "null", "-b", "-g"},
  };
  for (const Args& args : cases) {
    const auto request = add(args);
    ASSERT_FALSE(request) << args.back();
    EXPECT_EQ(request.error().code(), EINVAL);
  }
}

TEST(Attach, TakesEverything) {
  const Parsed p = parsed({"attach",      "--dev",      "2",
                           "x.o",         "--prog",     "p",
                           "--file",      "/a",         "--file",
                           "/b",          "--set",      "k=1",
                           "--set",       "l=a=b",      "--replace",
                           "--no-inline", "--buffered", "--pass-errors",
                           "--requests",  "--pin-maps", "/sys/fs/bpf/x",
                           "--keep-maps"});
  ASSERT_EQ(p.text, "");
  const auto request = attach_request(2, p.options.attach);
  ASSERT_TRUE(request) << request.error().line();
  EXPECT_EQ(request->dev_id, 2U);
  EXPECT_EQ(request->object, "x.o");
  EXPECT_EQ(request->program, "p");
  EXPECT_EQ(request->files, (std::vector<std::string>{"/a", "/b"}));
  const std::vector<std::pair<std::string, std::string>> knobs = {{"k", "1"},
                                                                  {"l", "a=b"}};
  EXPECT_EQ(request->knobs, knobs);
  EXPECT_EQ(request->flags,
            UBLK_BPF_ATTACH_F_REPLACE | UBLK_BPF_ATTACH_F_NO_INLINE |
                UBLK_BPF_ATTACH_F_PASS_ERRORS | UBLK_BPF_ATTACH_F_REQUESTS);
  EXPECT_TRUE(request->buffered);
  EXPECT_EQ(request->pin_dir, "/sys/fs/bpf/x");
  EXPECT_TRUE(request->keep_maps);
}

TEST(Attach, KeepsMapsOnlyOfAProgramThatItReplaces) {
  AttachOptions options;
  options.keep_maps = true;
  EXPECT_EQ(attach_request(0, options).error().code(), EINVAL);
  options.replace = true;
  EXPECT_TRUE(attach_request(0, options));
}

TEST(Attach, FilesMayStandBeforeTheObject) {
  const Parsed p = parsed({"attach", "-n", "0", "--file", "/a", "x.o"});
  ASSERT_EQ(p.text, "");
  EXPECT_EQ(p.options.attach.object, "x.o");
  EXPECT_EQ(p.options.attach.files, std::vector<std::string>{"/a"});
}

TEST(Attach, RefusesKnobsWithoutNameOrValue) {
  for (const char* knob : {"k", "=1", ""}) {
    AttachOptions options;
    options.knobs = {knob};
    EXPECT_EQ(attach_request(0, options).error().code(), EINVAL) << knob;
  }
}

TEST(Attach, InlineAndNotInlineExcludeEachOther) {
  AttachOptions options;
  options.no_inline = options.inline_files = true;
  EXPECT_EQ(attach_request(0, options).error().code(), EINVAL);
}

TEST(CommandLine, ADeviceIsANumberOrSomethingToLookFor) {
  EXPECT_EQ(parsed({"del", "-n", "12"}).options.dev_id, 12);
  EXPECT_EQ(parsed({"del", "-n", "12"}).options.device, "");
  for (const char* text : {"vm1", "/dev/ublkb3", "a.img", "0x10", "1.5"}) {
    const Parsed p = parsed({"del", "--dev", text});
    EXPECT_EQ(p.status, kDone) << text;
    EXPECT_EQ(p.options.dev_id, -1) << text;
    EXPECT_EQ(p.options.device, text);
  }
  for (const char* text : {"1048576", "99999999999999999999", ""})
    EXPECT_EQ(parsed({"del", "-n", text}).status, kUsedWrongly) << text;
}

TEST(CommandLine, NamesAreAsManyAsDevices) {
  AddOptions add;
  add.type = "null";
  add.count = 2;
  add.names = {"a"};
  EXPECT_FALSE(add_requests(add));
  add.names = {"a", "b"};
  const auto requests = add_requests(add);
  ASSERT_TRUE(requests);
  EXPECT_EQ((*requests)[0].name, "a");
  EXPECT_EQ((*requests)[1].name, "b");
  add.names = {"a", "7"};
  EXPECT_FALSE(add_requests(add));
  add.names = {"a", "a"};
  EXPECT_FALSE(add_requests(add));
}

}  // namespace
}  // namespace ublk::cli
