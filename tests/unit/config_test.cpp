// SPDX-License-Identifier: MIT
//
// What a configuration can say, and what is said about one that is wrong.
#include "cli/config.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

namespace ublk::cli {
namespace {

std::string mistake(std::string_view text) {
  const auto config = config_from_json("vm1", text);
  return config ? std::string("none") : config.error().line();
}

TEST(Config, KeysAreTheOptionsOfAdd) {
  const auto config = config_from_json("vm1", R"({
    "comment": "of the first machine", "type": "loop", "file": "/srv/a.img",
    "dev": 7, "queues": 2, "depth": 64, "size": "1G", "offset": 1048576,
    "read-only": true, "buffered": false, "reissue": true,
    "data-path": "user-copy", "no-part-scan": true})");
  ASSERT_TRUE(config) << config.error().line();
  const AddRequest& add = config->add;
  EXPECT_EQ(add.name, "vm1");
  EXPECT_EQ(add.dev_id, 7U);
  EXPECT_EQ(add.target.type, "loop");
  EXPECT_EQ(add.target.files, std::vector<std::string>{"/srv/a.img"});
  EXPECT_EQ(add.nr_hw_queues, 2);
  EXPECT_EQ(add.queue_depth, 64);
  EXPECT_EQ(add.target.size_bytes, uint64_t{1} << 30);
  EXPECT_EQ(add.target.offset_bytes, 1048576U);
  EXPECT_TRUE(add.target.read_only);
  EXPECT_FALSE(add.target.buffered);
  EXPECT_EQ(add.recovery_flags,
            uint64_t{UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE});
  EXPECT_EQ(add.data_path, "user-copy");
  EXPECT_FALSE(add.part_scan);
  EXPECT_FALSE(config->attach);
}

TEST(Config, ADeviceOutlivesItsServerUnlessItSaysOtherwise) {
  const auto flags = [](const char* more) {
    return config_from_json("a", fmt(R"({{"type": "null"{}}})", more))
        ->add.recovery_flags;
  };
  EXPECT_EQ(flags(""), uint64_t{UBLK_F_USER_RECOVERY});
  EXPECT_EQ(flags(R"(, "recovery": false)"), 0U);
  EXPECT_EQ(flags(R"(, "recovery": true)"), uint64_t{UBLK_F_USER_RECOVERY});
  EXPECT_EQ(flags(R"(, "fail-io": true)"),
            uint64_t{UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO});
}

TEST(Config, AProgramHasTheOptionsOfAttach) {
  const auto config = config_from_json("vm1", R"({"type": "mirror",
    "file": ["/srv/a.img", "/srv/b.img"],
    "program": {"object": "/usr/lib/x.bpf.o", "prog": "x",
      "file": ["/srv/c.img", "/srv/d.img"], "pass-errors": true,
      "set": {"offset": 4096, "name": "12K", "on": true}}})");
  ASSERT_TRUE(config) << config.error().line();
  EXPECT_EQ(config->add.target.files.size(), 2U);
  const AttachRequest& attach = *config->attach;
  EXPECT_EQ(attach.object, "/usr/lib/x.bpf.o");
  EXPECT_EQ(attach.program, "x");
  EXPECT_EQ(attach.files.size(), 2U);
  EXPECT_EQ(attach.flags, uint32_t{UBLK_BPF_ATTACH_F_PASS_ERRORS});
  const std::vector<std::pair<std::string, std::string>> knobs = {
      {"name", "12K"}, {"offset", "4096"}, {"on", "true"}};
  EXPECT_EQ(attach.knobs, knobs);
}

TEST(Config, AMistakeIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "loop", "fiel": "/a"})",
       "'fiel': is not a key: the nearest is 'file'"},
      {R"({"typ": "null"})", "the nearest is 'type'"},
      {R"({"type": "null", "foreground": true})", "'foreground': is not a key"},
      {R"({"type": "null", "name": "b"})", "'name': is not a key"},
      {R"({"type": "null", "queues": "2"})", "'queues': needs a number"},
      {R"({"type": "null", "queues": -1})", "'queues': needs a number"},
      {R"({"type": "null", "queues": 1.5})", "'queues': needs a number"},
      {R"({"type": "null", "queues": 0})", "queues"},
      {R"({"type": "null", "dev": 1048576})", "dev"},
      {R"({"type": "null", "size": true})", "'size': needs a string"},
      {R"({"type": "null", "size": "10X"})", "10X"},
      {R"({"type": "null", "read-only": "yes"})", "needs true or false"},
      {R"({"type": "null", "recovery": 1})", "needs true or false"},
      {R"({"type": "loop", "file": "a.img"})", "'a.img' is not an absolute"},
      {R"({"type": "loop", "file": ["/a", "/b"]})", "of one device, not of 2"},
      {R"({"type": "loop", "file": []})", "'file': needs a string"},
      {R"({"type": "loop", "file": [1]})", "'file': needs a string"},
      {R"({"type": "loop", "file": ""})", "'' is not an absolute path"},
      {R"({"type": "null", "size": ""})", "'size': needs a string"},
      {R"({"type": "loop"})", "needs a file"},
      {R"({"type": "nil"})", "nil"},
      {R"({"file": "/a"})", "--type"},
      {R"({"type": "null", "type": "loop"})", "'type': is there twice"},
      {R"({"type": "null", "comment": 1})", "'comment': needs a string"},
      {R"({"type": "null", "program": "x"})", "needs an object"},
      {R"({"type": "null", "program": {}})", "'object': is missing"},
      {R"({"type": "null", "program": {"object": "/x", "replace": true}})",
       "'replace': is not a key"},
      {R"({"type": "null", "program": {"object": "x.bpf.o"}})",
       "is not an absolute"},
      {R"({"type": "null", "program": {"object": "/x", "set": ["a=1"]}})",
       "'set': needs an object"},
      {R"({"type": "null", "program": {"object": "/x", "set": {"a": 1.5}}})",
       "'a': needs"},
      {R"({"type": "null", "no-bpf": true, "program": {"object": "/x"}})",
       "exclude each other"},
      {R"([1])", "is not a JSON object"},
      {R"({"type": "null",})", "is not JSON: "},
      {"", "is not JSON: "},
  };
  for (const auto& [text, says] : cases)
    EXPECT_NE(mistake(text).find(says), std::string::npos) << text << "\n"
                                                           << mistake(text);
  EXPECT_FALSE(config_from_json("7", R"({"type": "null"})"));
}

TEST(Config, FilesAreFoundByTheirNames) {
  const std::string dir = testing::TempDir() + "ublk-bpf-config";
  std::filesystem::remove_all(dir);
  EXPECT_TRUE(config_names(dir)->empty());
  std::filesystem::create_directories(dir);
  std::ofstream(dir + "/b.json") << R"({"type": "null"})";
  std::ofstream(dir + "/a.json") << R"({"type": "nul"})";
  std::ofstream(dir + "/README") << "x";
  const std::vector<std::string> names = {"a", "b"};
  EXPECT_EQ(*config_names(dir), names);
  EXPECT_TRUE(read_config(dir, "b"));
  const auto wrong = read_config(dir, "a");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().line().find(dir + "/a.json: "), 0U)
      << wrong.error().line();
  EXPECT_EQ(read_config(dir, "c").error().code(), ENOENT);
  EXPECT_FALSE(read_config(dir, "../b"));
}

}  // namespace
}  // namespace ublk::cli
