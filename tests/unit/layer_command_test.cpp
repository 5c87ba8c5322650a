// SPDX-License-Identifier: MIT
//
// ublk-bpf layer create, info, check and list.

#include <gtest/gtest.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "layer_dir.h"

namespace ublk::cli {
namespace {

using nlohmann::json;

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
  json parsed() const { return json::parse(out, nullptr, false); }
};

class LayerCommand : public LayerDir {
 protected:
  // `ublk-bpf layer WORDS`
  Outcome run(std::vector<std::string> words) {
    words.insert(words.begin(), {"ublk-bpf", "layer"});
    std::vector<const char*> argv;
    for (const auto& word : words) argv.push_back(word.c_str());
    const Parsed parsed = parse(static_cast<int>(argv.size()), argv.data());
    if (!parsed.text.empty()) return {parsed.status, "", parsed.text};
    Outcome outcome;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    for (const Command& command : commands())
      if (parsed.options.command == command.name)
        outcome.status = command.run(parsed.options);
    outcome.out = testing::internal::GetCapturedStdout();
    outcome.err = testing::internal::GetCapturedStderr();
    return outcome;
  }
};

TEST_F(LayerCommand, CreatesAndShows) {
  write("raw", std::string(8 * kMiB, 'x'));
  const auto made = run(
      {"create", at("a"), "--base", "raw", "--block-size", "64K", "--json"});
  EXPECT_EQ(made.status, kDone) << made.err;
  const json info = run({"info", at("a"), "--json"}).parsed();
  EXPECT_EQ(info, made.parsed());
  EXPECT_EQ(info["filename"], at("a"));
  EXPECT_EQ(info["format"], "ublk-layer");
  EXPECT_EQ(info["virtual-size"], 8 * kMiB);
  EXPECT_LE(info["actual-size"], 16384);
  EXPECT_EQ(info["cluster-size"], 65536);
  EXPECT_EQ(info["sealed"], false);
  EXPECT_EQ(info["present-blocks"], 0);
  EXPECT_EQ(info["backing-filename"], "raw");
  EXPECT_EQ(info["full-backing-filename"], at("raw"));
  EXPECT_EQ(info["backing-filename-format"], "raw");
  EXPECT_EQ(info["backing-uuid"], nullptr);
  EXPECT_EQ(run({"info", at("a")}).out, run({"info", at("a")}).out);
  const std::string text = run({"info", at("a")}).out;
  EXPECT_NE(text.find("base: file raw of 8388608 bytes"), std::string::npos)
      << text;
}

TEST_F(LayerCommand, ShowsTheWholeChain) {
  write("raw", std::string(4096, 'x'));
  run({"create", at("a"), "-b", at("raw"), "-F", "raw"});
  run({"create", at("b"), "-b", "a", "-F", "layer", "--size", "1M"});
  {
    Layer b = top("b");
    b.blocks().set(0, 3);
    ASSERT_TRUE(b.save());
  }
  const json chain = run({"info", at("b"), "--chain", "--json"}).parsed();
  ASSERT_EQ(chain.size(), 3U);
  EXPECT_EQ(chain[0]["present-blocks"], 3);
  EXPECT_EQ(chain[0]["present-bytes"], 12288);
  EXPECT_EQ(chain[0]["backing-uuid"], chain[1]["uuid"]);
  EXPECT_EQ(chain[1]["sealed"], true);
  EXPECT_EQ(chain[2]["filename"], at("raw"));
  EXPECT_EQ(chain[2]["format"], "raw");
  const std::string text = run({"info", at("b"), "--chain"}).out;
  for (const char* name : {"a", "b", "raw"})
    EXPECT_NE(text.find(at(name) + ": "), std::string::npos) << text;
}

TEST_F(LayerCommand, CountsTheBytesOfABlockThatTheEndCuts) {
  run({"create", at("a"), "--size", "10K"});
  Layer a = top("a");
  a.blocks().set(0, 3);
  ASSERT_TRUE(a.save());
  EXPECT_EQ(run({"info", at("a"), "--json"}).parsed()["present-bytes"], 10240);
}

TEST_F(LayerCommand, ListsExtentsAsQemuImgDoes) {
  write("raw", std::string(16384, 'x'));
  run({"create", at("a"), "--base", "raw", "--size", "32K"});
  {
    Layer a = top("a");
    a.blocks().set(1, 1);
    ASSERT_TRUE(a.save());
  }
  const json expected = json::parse(R"([
    {"start":0,"length":4096,"depth":1,"present":true,"zero":false,
     "data":true,"offset":0},
    {"start":4096,"length":4096,"depth":0,"present":true,"zero":true,
     "data":false},
    {"start":8192,"length":8192,"depth":1,"present":true,"zero":false,
     "data":true,"offset":8192},
    {"start":16384,"length":16384,"depth":1,"present":false,"zero":true,
     "data":false}])");
  EXPECT_EQ(run({"list", at("a"), "--json"}).parsed(), expected);
  const std::string text = run({"list", at("a")}).out;
  EXPECT_NE(text.find("4096           4096  zeroes of " + at("a")),
            std::string::npos)
      << text;
}

TEST_F(LayerCommand, ChecksAndRepairs) {
  run({"create", at("a"), "--size", "1M"});
  EXPECT_EQ(run({"check", at("a")}).status, kDone);
  std::filesystem::resize_file(at("a"), kMiB);
  const auto damaged = run({"check", at("a"), "--json"});
  EXPECT_EQ(damaged.status, kDamaged);
  const json found = damaged.parsed();
  EXPECT_EQ(found["corruptions"], 1);
  EXPECT_EQ(found["corruptions-fixed"], 0);
  EXPECT_EQ(found["total-clusters"], 256);
  ASSERT_EQ(found["damages"].size(), 1U);
  EXPECT_EQ(found["damages"][0]["kind"], "cut_short");
  EXPECT_EQ(found["damages"][0]["offset"], kMiB);
  EXPECT_EQ(found["damages"][0]["mendable"], true);
  EXPECT_NE(run({"check", at("a")}).out.find("--repair mends it"),
            std::string::npos);
  const auto mended = run({"check", at("a"), "--repair", "--json"});
  EXPECT_EQ(mended.status, kDone);
  EXPECT_EQ(mended.parsed()["corruptions-fixed"], 1);
  EXPECT_EQ(mended.parsed()["damages"][0]["mended"], true);
  EXPECT_NE(run({"check", at("a")}).out.find("nothing is wrong: 0 of 256"),
            std::string::npos);
}

TEST_F(LayerCommand, SaysInOneLineWhatIsWrong) {
  run({"create", at("a"), "--size", "1M"});
  write("raw", "x");
  const std::pair<std::vector<std::string>, int> cases[] = {
      {{"create", at("a"), "--size", "1M"}, kFailed},
      {{"create", at("b"), "--base", "none"}, kFailed},
      {{"create", at("b")}, kUsedWrongly},
      {{"create", at("b"), "--size", "0"}, kUsedWrongly},
      {{"create", at("b"), "--size", "100"}, kUsedWrongly},
      {{"create", at("b"), "--size", "x"}, kUsedWrongly},
      {{"create", at("b"), "--size", "1M", "--block-size", "2K"}, kUsedWrongly},
      {{"create", at("b"), "--size", "1M", "--block-size", "5G"}, kUsedWrongly},
      {{"create", at("b"), "--size", "1M", "-F", "raw"}, kUsedWrongly},
      {{"create", at("b"), "--base", "a", "-F", "qcow2"}, kUsedWrongly},
      {{"create", at("b"), "--base", "raw", "-F", "layer"}, kFailed},
      {{"info", at("raw")}, kFailed},
      {{"info", at("none")}, kFailed},
      {{"info", at("raw"), "--chain"}, kFailed},
      {{"list", at("raw")}, kFailed},
      {{"check", at("none")}, kFailed},
      {{"check", at("")}, kFailed},
      {{"check", at("raw"), "--json"}, kDamaged}};
  for (const auto& [words, status] : cases) {
    std::string line;
    for (const auto& word : words) line += word + " ";
    const auto outcome = run(words);
    EXPECT_EQ(outcome.status, status) << line << outcome.err;
    if (status == kDamaged) continue;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "") << line;
  }
  EXPECT_FALSE(exists("b"));
}

TEST_F(LayerCommand, SaysWhereABaseIsLookedFor) {
  write("raw", std::string(4096, 'x'));
  std::filesystem::create_directory(at("sub"));
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir_);
  const auto outcome = run({"create", "sub/a", "--base", "raw"});
  const auto good = run({"create", "sub/a", "--base", "../raw"});
  std::filesystem::current_path(before);
  EXPECT_EQ(outcome.status, kFailed);
  EXPECT_NE(outcome.err.find("the base is looked for from the directory of "
                             "sub/a"),
            std::string::npos)
      << outcome.err;
  EXPECT_EQ(good.status, kDone) << good.err;
  EXPECT_TRUE(LayerChain::open(at("sub/a"), {}));
}

}  // namespace
}  // namespace ublk::cli
