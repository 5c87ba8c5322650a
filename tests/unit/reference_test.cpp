// SPDX-License-Identifier: MIT
//
// Manual pages, completion and help say what the command line takes, all of it.

#include "cli/reference.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/app.h"
#include "cli/author_commands.h"
#include "server/target.h"

namespace ublk::cli {
namespace {

struct Outcome {
  int status;
  std::string text;
};

Outcome shell(const std::string& command) {
  Outcome outcome{-1, ""};
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return outcome;
  char part[4096];
  while (const size_t got = std::fread(part, 1, sizeof(part), pipe))
    outcome.text.append(part, got);
  const int status = ::pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

std::string written(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + "ublk-bpf-" + name;
  std::ofstream(path) << text;
  return path;
}

std::vector<const CLI::Option*> shown_options(const CLI::App& app) {
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : app.get_options())
    if (!option->get_group().empty()) options.push_back(option);
  return options;
}

const CLI::App& app_of(const CLI::App& root, const Command& command) {
  for (const CLI::App* app : command_apps(root))
    if (command_of(*app) == command.name) return *app;
  ADD_FAILURE() << command.name;
  return root;
}

std::string without_escapes(std::string text) {
  std::erase(text, '\\');
  return text;
}

TEST(Reference, EveryCommandAndOptionIsInTheManualPages) {
  const auto pages = man_pages();
  Options options;
  const auto app = make_app(options);
  ASSERT_EQ(pages.size(), commands().size() + 1);
  for (const Command& command : commands()) {
    EXPECT_NE(without_escapes(pages.at("ublk-bpf.8"))
                  .find("ublk-bpf-" + dashed(command.name)),
              std::string::npos);
    const std::string page =
        without_escapes(pages.at("ublk-bpf-" + dashed(command.name) + ".8"));
    EXPECT_NE(page.find(std::string(".B ublk-bpf ") + command.name + "\n"),
              std::string::npos);
    // Those that help does not show, too: a script may have them.
    for (const CLI::Option* option : shown_options(app_of(*app, command)))
      for (const auto& name : option->get_lnames())
        EXPECT_TRUE(page.contains("fB--" + name + "fR"))
            << command.name << " " << name;
  }
  const std::string add = pages.at("ublk-bpf-add.8");
  for (const TargetOps* ops : all_targets()) {
    EXPECT_NE(add.find(".B " + std::string(ops->name)), std::string::npos);
    EXPECT_FALSE(ops->help.empty()) << ops->name;
  }
}

TEST(Reference, ManualPagesAreWellFormed) {
  if (shell("command -v mandoc").status != 0)
    GTEST_SKIP() << "there is no mandoc outside the build root";
  for (const auto& [name, text] : man_pages()) {
    const auto lint = shell("mandoc -T lint -W warning " + written(name, text));
    EXPECT_EQ(lint.text, "") << name;
    EXPECT_EQ(lint.status, 0) << name;
  }
  // It says something about what is not.
  EXPECT_NE(
      shell("mandoc -T lint -W warning " + written("bad.8", ".XX\n")).text, "");
}

// What bash offers for a line; the last word is the one that is completed.
std::string offered(const std::vector<std::string>& words) {
  static const std::string script = written("completion", bash_completion());
  std::string line =
      "bash -euc '. \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# "
      "- 1)); _ublk_bpf; printf \"%s \" \"${COMPREPLY[@]-}\"' " +
      script;
  for (const auto& word : words) line += " '" + word + "'";
  const auto outcome = shell(line);
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  return outcome.text;
}

TEST(Completion, OffersWhatCanStandThere) {
  const std::filesystem::path dir = testing::TempDir() + "ublk-bpf-complete";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  for (const char* name : {"ublkc0", "ublkc12", "disk.img", "a b.bpf.o"})
    std::ofstream(dir / name) << "x";
  ::setenv("UBLK_BPF_DEV_DIR", dir.c_str(), 1);
  std::ofstream(dir / "12.udev") << "UBLK_BPF_NAME=vm1\n";
  ::setenv("UBLK_BPF_STATE_DIR", dir.c_str(), 1);
  std::filesystem::create_directories(dir / "sbin");
  std::filesystem::create_directories(dir / "lib/ublk-bpf/bpf");
  std::ofstream(dir / "sbin/ublk-bpf") << "x";
  std::filesystem::permissions(dir / "sbin/ublk-bpf",
                               std::filesystem::perms::owner_all);
  for (const char* name : {"wrap.bpf.o", "wrong.o"})
    std::ofstream(dir / "lib/ublk-bpf/bpf" / name) << "x";
  const std::string at = dir.string();
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"ublk-bpf", "at"}, "attach "},
      {{"ublk-bpf", "--ver"}, "--version "},
      {{"ublk-bpf", "add", "-t", ""}, "null loop mirror clone fault "},
      {{"ublk-bpf", "add", "-t", "l"}, "loop "},
      {{"ublk-bpf", "add", "--type", "=", "l"}, "loop "},
      {{"ublk-bpf", "add", "--over", "="}, "null loop mirror clone fault "},
      {{"ublk-bpf", "add", "--fau"}, "--fault "},
      {{"ublk-bpf", "add", "--size", ""}, " "},
      {{"ublk-bpf", "add", "--data-path", ""},
       "auto auto-zero-copy zero-copy copy user-copy need-get-data "},
      {{"ublk-bpf", "add", "--data-path", "=", "u"}, "user-copy "},
      {{"ublk-bpf", "add", "--name", ""}, " "},
      {{"ublk-bpf", "list", "--format", ""}, "ublk-bpf kublk ublksrv "},
      {{"ublk-bpf", "bench", "c"}, "compare "},
      {{"ublk-bpf", "add", "-f", at + "/di"}, at + "/disk.img "},
      {{"ublk-bpf", "del", "-n", ""}, "0 12 vm1 "},
      {{"ublk-bpf", "down", "--a"}, "--all "},
      {{"ublk-bpf", "config", "ch"}, "check "},
      {{"ublk-bpf", "stat", "v"}, "vm1 "},
      {{"ublk-bpf", "--json", "list", "--dev", "1"}, "12 "},
      {{"ublk-bpf", "attach", "-n", "0", at + "/a"}, at + "/a b.bpf.o "},
      {{"ublk-bpf", "attach", "--rep"}, "--replace "},
      {{at + "/sbin/ublk-bpf", "attach", "-n", "0", "wr"}, "wrap "},
      {{at + "/sbin/ublk-bpf", "check", "wr"}, "wrap "},
      {{"ublk-bpf", "help", "fau"}, "fault "},
      {{"ublk-bpf", "lay"}, "layer "},
      {{"ublk-bpf", "--json", "layer", "c"}, "create check "},
      {{"ublk-bpf", "layer", "create", "--base-f"}, "--base-format "},
      {{"ublk-bpf", "layer", "create", "-F", ""}, "layer raw "},
      {{"ublk-bpf", "layer", "info", at + "/di"}, at + "/disk.img "},
      {{"ublk-bpf", "layer", "create", "-b", at + "/di"}, at + "/disk.img "},
      {{"ublk-bpf", "layer", "bogus", ""}, " "},
      {{"ublk-bpf", "help", "layer-l"}, "layer-list "},
      {{"ublk-bpf", "bogus", ""}, " "},
  };
  for (const auto& [words, offers] : cases) {
    std::string line;
    for (const auto& word : words) line += word + " ";
    EXPECT_EQ(offered(words), offers) << line;
  }
}

TEST(Completion, OffersNamesOfConfigurations) {
  const std::filesystem::path dir = testing::TempDir() + "ublk-bpf-configs";
  std::filesystem::create_directories(dir);
  for (const char* name : {"vm1.json", "vm2.json", "notes.txt"})
    std::ofstream(dir / name) << "{}";
  for (const char* command : {"up", "down"}) {
    EXPECT_EQ(offered({"ublk-bpf", command, "--config-dir", dir, ""}),
              "vm1 vm2 ");
    EXPECT_EQ(offered({"ublk-bpf", command, "--config-dir", "=", dir, "vm2"}),
              "vm2 ");
  }
  EXPECT_EQ(
      offered({"ublk-bpf", "config", "check", "--config-dir", dir, "vm1", "v"}),
      "vm1 vm2 ");
  EXPECT_EQ(offered({"ublk-bpf", "up", "--config-dir",
                     testing::TempDir() + "ublk-bpf-conf"}),
            dir.string() + " ");
}

// What the command says when completion asks it.
std::string answer_of_check(const std::string& object) {
  Options options;
  options.attach.object = object;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  (void)run_check(options);  // a kernel may refuse it
  (void)testing::internal::GetCapturedStderr();
  return testing::internal::GetCapturedStdout();
}

TEST(Completion, OffersKnobsAndProgramsOfTheObject) {
  const std::filesystem::path dir = testing::TempDir() + "ublk-bpf-knobs";
  std::filesystem::create_directories(dir / "lib/ublk-bpf/bpf");
  std::filesystem::create_directories(dir / "sbin");
  const std::string built = UBLK_BPF_OBJECTS;
  const std::string concat = built + "/bpf/concat.bpf.o";
  const std::string two = built + "/tests/programs/two.bpf.o";
  std::ofstream(dir / "lib/ublk-bpf/bpf/wrap.bpf.o") << "x";
  const std::string tool = dir / "sbin/ublk-bpf";
  std::ofstream(tool) << "#!/bin/sh\ncase $2 in\n*two*)\ncat <<'EOF'\n"
                      << answer_of_check(two) << "EOF\n;;\n*)\ncat <<'EOF'\n"
                      << answer_of_check(concat) << "EOF\nesac\n";
  std::filesystem::permissions(tool, std::filesystem::perms::owner_all);
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{tool, "attach", "-n", "0", concat, "--set", ""}, "split_sectors= "},
      {{tool, "check", "wrap", "--set", "sp"}, "split_sectors= "},
      {{tool, "check", "wrap", "--set", "=", "sp"}, "split_sectors= "},
      {{tool, "attach", "--replace", "wrap", "--file", two, "--set", ""},
       "split_sectors= "},
      {{tool, "check", "--set", "sp"}, " "},
      // What its value can be, nobody knows.
      {{tool, "attach", "wrap", "--set", "split_sectors", "="}, " "},
      {{tool, "attach", "wrap", "--set", "split_sectors", "=", "1"}, " "},
      {{tool, "attach", "-n", "0", two, "--prog", ""}, "first second "},
      {{tool, "attach", "-n", "0", two, "--prog", "s"}, "second "},
  };
  for (const auto& [words, offers] : cases) {
    std::string line;
    for (const auto& word : words) line += word + " ";
    EXPECT_EQ(offered(words), offers) << line;
  }
}

TEST(Completion, OffersEveryCommandAndOption) {
  Options options;
  const auto app = make_app(options);
  for (const Command& command : commands()) {
    // Word by word.
    std::vector<std::string> line = {"ublk-bpf"};
    std::istringstream words(command.name);
    for (std::string word; words >> word; line.push_back(word)) {
      line.emplace_back();
      EXPECT_NE((" " + offered(line)).find(" " + word + " "), std::string::npos)
          << command.name;
      line.pop_back();
    }
    line.emplace_back("-");
    const std::string all = " " + offered(line);
    for (const CLI::Option* option : shown_options(app_of(*app, command))) {
      for (const auto& name : shown_names(*option))
        EXPECT_TRUE(all.contains(" " + name + " "))
            << command.name << " " << name;
      for (const auto& name : other_names(*option))
        EXPECT_FALSE(all.contains(" " + name + " "))
            << command.name << " " << name;
    }
  }
}

TEST(Help, IsThereForEveryCommandAndTarget) {
  for (const Command& command : commands()) {
    EXPECT_NE(help_on(command.name)->find("--json"), std::string::npos);
    EXPECT_EQ(*help_on(dashed(command.name)), *help_on(command.name));
    EXPECT_NE(help_on(command.name)
                  ->find(std::string("Usage: ublk-bpf ") + command.name + " "),
              std::string::npos)
        << command.name;
  }
  EXPECT_NE(help_on("layer")->find("create"), std::string::npos);
  for (const TargetOps* ops : all_targets())
    EXPECT_NE(help_on(std::string(ops->name))->find(ops->summary),
              std::string::npos);
  EXPECT_NE(help_on("")->find("recover"), std::string::npos);
  EXPECT_EQ(help_on("tape").error().code(), EINVAL);
}

TEST(Reference, HelpHasCommandsUnderHeadings) {
  const std::string text = *help_on("");
  const auto at = [&](const std::string& line) { return text.find(line); };
  for (const char* heading : {"\nDevices:\n", "\nPrograms:\n", "\nAt boot:\n",
                              "\nWatching:\n", "\nThe host:\n"})
    EXPECT_NE(at(heading), std::string::npos) << heading << text;
  EXPECT_LT(at("\nPrograms:"), at("\n  attach "));
  EXPECT_LT(at("\nAt boot:"), at("\n  config "));
  for (const Command& command : commands()) {
    const std::string name = command.name;
    const std::string first = name.substr(0, name.find(' '));
    EXPECT_TRUE(text.contains("\n  " + first + " ")) << name;
  }
}

}  // namespace
}  // namespace ublk::cli
