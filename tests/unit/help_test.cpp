// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <sstream>

#include "cli/app.h"
#include "cli/help_formatter.h"
#include "server/target.h"

namespace ublk::cli {
namespace {

constexpr size_t kMostColumns = 100;

// All that can be asked for: commands, groups of them, targets.
std::vector<std::string> topics() {
  std::vector<std::string> all = {""};
  Options options;
  const auto app = make_app(options);
  for (const CLI::App* sub : std::as_const(*app).get_subcommands({}))
    all.push_back(sub->get_name());
  for (const Command& command : commands()) all.emplace_back(command.name);
  for (const TargetOps* ops : all_targets()) all.emplace_back(ops->name);
  return all;
}

TEST(Help, HasNoLineThatIsTooWide) {
  for (const std::string& topic : topics()) {
    std::istringstream in(*help_on(topic));
    for (std::string line; std::getline(in, line);)
      EXPECT_LE(line.size(), kMostColumns) << topic << ": " << line;
  }
}

TEST(Help, LeavesNoSpaceAtTheEndOfALine) {
  for (const std::string& topic : topics())
    EXPECT_FALSE(help_on(topic)->contains(" \n")) << *help_on(topic);
}

TEST(Help, ShowsOneLongNameOfAnOptionButAllAreTaken) {
  const std::string help = *help_on("add");
  EXPECT_TRUE(help.contains("  -u, --user-copy  ")) << help;
  Options options;
  const auto app = make_app(options);
  for (const CLI::App* sub : command_apps(*app))
    for (const CLI::Option* option : sub->get_options())
      for (const auto& name : other_names(*option))
        EXPECT_FALSE(help_on(command_of(*sub))->contains(name)) << name;
  for (const char* name : {"--user_copy", "--usercopy"}) {
    const char* line[] = {"ublk-bpf", "add", "-t", "null", name};
    const Parsed p = parse(std::size(line), line);
    EXPECT_EQ(p.text, "");
    EXPECT_TRUE(p.options.add.user_copy) << name;
  }
}

TEST(Help, SaysWhatAValueCanBe) {
  const std::string help = *help_on("add");
  EXPECT_TRUE(help.contains("\n  -q, --queues N ")) << help;
  EXPECT_TRUE(help.contains(" hardware queues (1 to 4096; default: 1)\n"));
  EXPECT_TRUE(help.contains("\n  -t, --type TARGET "));
  EXPECT_TRUE(help.contains("(required)"));
  EXPECT_FALSE(help.contains("UINT"));
}

TEST(Help, BreaksLinesAtSpacesOnly) {
  struct Case {
    const char* text;
    size_t indent, at;
    const char* lines;
  };
  const Case cases[] = {
      {"", 2, 2, ""},
      {"one two three", 0, 0, "one two\nthree"},
      {"one two three", 2, 2, "one two\n  three"},
      {"one two three", 2, 6, "one\n  two\n  three"},
      {"seventeen-letters x", 2, 2, "seventeen-letters\n  x"},
      {"one\ntwo  three", 2, 2, "one\n  two\n  three"},
      {"a b\n", 0, 0, "a b\n"},
  };
  for (const auto& [text, indent, at, lines] : cases)
    EXPECT_EQ(wrapped(text, 9, indent, at), lines) << text;
}

}  // namespace
}  // namespace ublk::cli
