// SPDX-License-Identifier: MIT
#include "device/state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace ublk {
namespace {

DeviceState sample() {
  DeviceState state;
  state.dev_id = 3;
  state.instance = "1-2.3";
  state.target = {.type = "loop",
                  .files = {"/tmp/a b.img"},
                  .size_bytes = 1 << 30,
                  .offset_bytes = 4096,
                  .block_bytes = 512,
                  .max_io_bytes = 1 << 20,
                  .chunk_bytes = 256 << 10,
                  .read_only = true,
                  .buffered = false};
  state.attached = AttachedState{.prog_id = 7,
                                 .program = "loop",
                                 .object = "/x/loop.bpf.o",
                                 .files = {"/tmp/a b.img"},
                                 .knobs = {{"offset", "4096"}}};
  return state;
}

class StateDir : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  StateStore store() { return std::move(*StateStore::open(dir_)); }

  std::string dir_ =
      testing::TempDir() + "state-" +
      testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST(State, ComesBackAsItWasWritten) {
  const auto back = state_from_json(state_to_json(sample()));
  ASSERT_TRUE(back) << back.error().line();
  EXPECT_EQ(state_to_json(*back), state_to_json(sample()));
  EXPECT_EQ(back->target.files, sample().target.files);
  EXPECT_EQ(back->target.chunk_bytes, sample().target.chunk_bytes);
  EXPECT_EQ(back->attached->knobs, sample().attached->knobs);
}

TEST(State, KeepsNamesThatAreNotUtf8) {
  DeviceState state = sample();
  state.target.files = {"/tmp/\xff\xfe%\n"};
  state.attached->files = {"/a", "/\xc3"};
  state.attached->object = "/\x80.o";
  const std::string text = state_to_json(state);
  const auto back = state_from_json(text);
  ASSERT_TRUE(back) << back.error().line();
  EXPECT_EQ(back->target.files, state.target.files);
  EXPECT_EQ(back->attached->files, state.attached->files);
  EXPECT_EQ(back->attached->object, state.attached->object);
  EXPECT_NE(text.find("/tmp/%FF%FE%25%0A"), std::string::npos);
  std::string bad = text;
  EXPECT_EQ(
      state_from_json(bad.replace(bad.find("%FF"), 3, "%FG")).error().code(),
      EPROTO);
}

TEST(State, KeepsWhatTheFilesAre) {
  DeviceState state = sample();
  state.target.identities = {
      {.dev = 1, .ino = UINT64_MAX, .born_ns = 1ULL << 60},
      {.is_block = true,
       .dev = 8,
       .diskseq = 7,
       .first_sector = 2048,
       .disk_id = "naa.5\xff"}};
  const auto back = state_from_json(state_to_json(state));
  ASSERT_TRUE(back) << back.error().line();
  ASSERT_EQ(back->target.identities.size(), 2U);
  for (size_t i = 0; i < 2; i++) {
    EXPECT_TRUE(back->target.identities[i].same_as(state.target.identities[i]));
    EXPECT_EQ(back->target.identities[i].text(),
              state.target.identities[i].text());
  }
  EXPECT_TRUE(back->attached->identities.empty());
  state.attached->identities = {state.target.identities[1]};
  const auto named = state_from_json(state_to_json(state));
  ASSERT_TRUE(named) << named.error().line();
  ASSERT_EQ(named->attached->identities.size(), 1U);
  EXPECT_TRUE(
      named->attached->identities[0].same_as(state.target.identities[1]));
}

TEST(State, KeepsPinsAndWhatAMirrorHasLost) {
  DeviceState state = sample();
  EXPECT_FALSE(state_to_json(state).contains("pin"));
  state.attached->pins = {"/sys/fs/bpf/x/ublkb3", {"tally", "tally_bss"}};
  state.target.failed_legs = 2;
  state.target.layers = {{"/a/top", "1-2"}, {"/a/b\xff", ""}};
  state.legs_map = 77;
  const auto back = state_from_json(state_to_json(state));
  ASSERT_TRUE(back) << back.error().line();
  EXPECT_EQ(back->attached->pins.dir, state.attached->pins.dir);
  EXPECT_EQ(back->attached->pins.names, state.attached->pins.names);
  EXPECT_EQ(back->target.failed_legs, 2U);
  ASSERT_EQ(back->target.layers.size(), 2U);
  EXPECT_EQ(back->target.layers[0].uuid, "1-2");
  EXPECT_EQ(back->target.layers[1].path, "/a/b\xff");
  EXPECT_EQ(back->legs_map, 77U);
}

TEST(State, CutShortAnywhereIsRefused) {
  const std::string whole = state_to_json(sample());
  // Without the end of the line it is whole.
  for (size_t len = 0; len + 1 < whole.size(); len++) {
    const auto state = state_from_json(std::string_view(whole).substr(0, len));
    ASSERT_FALSE(state) << len << " bytes were taken for all";
    EXPECT_EQ(state.error().code(), EPROTO);
  }
}

TEST(State, OfAnotherVersionOrShapeIsRefused) {
  std::string newer = state_to_json(sample());
  newer.replace(newer.find("\"version\": 1"), 12, "\"version\": 2");
  const auto state = state_from_json(newer);
  ASSERT_FALSE(state);
  EXPECT_NE(state.error().line().find("version 2"), std::string::npos);
  for (const char* text : {"[]", "null", "{}", "{\"version\":\"1\"}",
                           "{\"version\":1,\"dev_id\":\"x\"}"})
    EXPECT_EQ(state_from_json(text).error().code(), EPROTO) << text;
}

TEST_F(StateDir, SavesLoadsAndRemoves) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  EXPECT_EQ(states.load(3)->instance, "1-2.3");
  EXPECT_EQ(states.load(4).error().code(), ENOENT);
  ASSERT_TRUE(states.remove(3, "1-2.3"));
  EXPECT_EQ(states.load(3).error().code(), ENOENT);
  EXPECT_TRUE(states.remove(3, "1-2.3")) << "removing twice is no error";
}

TEST_F(StateDir, LeavesNothingBesideTheFile) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  ASSERT_TRUE(states.save(sample()));
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir_))
    names.push_back(entry.path().filename());
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"3.json", "lock"}));
}

TEST_F(StateDir, OfALaterDeviceIsNotRemoved) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  ASSERT_TRUE(states.remove(3, "an older one"));
  EXPECT_TRUE(states.load(3));
}

TEST_F(StateDir, NotesAndForgetsAProgram) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  const auto set = [&](const std::optional<AttachedState>& attached) {
    return [attached](DeviceState& state) { state.attached = attached; };
  };
  ASSERT_TRUE(states.change(3, set(std::nullopt)));
  EXPECT_FALSE(states.load(3)->attached);
  ASSERT_TRUE(states.change(3, set(sample().attached)));
  EXPECT_EQ(states.load(3)->attached->prog_id, 7U);
  EXPECT_TRUE(states.change(9, set(std::nullopt)))
      << "a device of another program has no state";
}

TEST_F(StateDir, RefusesTheStateOfAnotherDevice) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  std::filesystem::copy_file(dir_ + "/3.json", dir_ + "/4.json");
  const auto state = states.load(4);
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code(), EPROTO);
  EXPECT_NE(state.error().line().find("device 3"), std::string::npos);
}

TEST_F(StateDir, KeepsTheCpusOfAQueue) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  ASSERT_TRUE(
      states.change(3, [](DeviceState& state) { state.affinity[1] = {0, 5}; }));
  EXPECT_EQ(states.load(3)->affinity.at(1), (std::vector<uint16_t>{0, 5}));
  EXPECT_FALSE(state_from_json(
      R"({"version":1,"dev_id":3,"instance":"","attached":null,
          "affinity":{"x":[0]},"target":{}})"));
}

TEST_F(StateDir, KnowsWhatIsNoState) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  for (const char* name : {"4.json.12.new", "004.json", "x.json"})
    std::ofstream(dir_ + "/" + name) << "{";
  ASSERT_TRUE(states.hold(StateStore::Hold::shared));
  EXPECT_EQ(states.ids(), std::vector<uint32_t>{3});
  EXPECT_EQ(states.other_files(),
            (std::vector<std::string>{"004.json", "4.json.12.new", "x.json"}));
}

TEST_F(StateDir, IsHeldByManyOrByOne) {
  const StateStore states = store();
  auto first = states.hold(StateStore::Hold::shared);
  ASSERT_TRUE(first && first->valid());
  auto second = states.hold(StateStore::Hold::shared);
  EXPECT_TRUE(second && second->valid());
}

TEST_F(StateDir, ThatIsMissingHasNoDevices) {
  const StateStore states = StateStore::open_existing(dir_);
  EXPECT_EQ(states.load(0).error().code(), ENOENT);
  EXPECT_TRUE(states.remove(0, ""));
  EXPECT_FALSE(std::filesystem::exists(dir_));
}

TEST_F(StateDir, ThatIsDamagedNamesTheFile) {
  const StateStore states = store();
  std::ofstream(dir_ + "/5.json") << "{";
  const auto state = states.load(5);
  EXPECT_EQ(state.error().code(), EPROTO);
  EXPECT_NE(state.error().line().find(dir_ + "/5.json"), std::string::npos);
}

TEST(StateText, NumbersThatDoNotFitAreRefused) {
  const std::string good = state_to_json(sample());
  ASSERT_TRUE(state_from_json(good));
  for (const auto& [was, is] :
       {std::pair{"\"dev_id\": 3", "\"dev_id\": 4294967296"},
        {"\"dev_id\": 3", "\"dev_id\": -1"},
        {"\"dev_id\": 3", "\"dev_id\": 3.5"},
        {"\"offset_bytes\": 4096", "\"offset_bytes\": 99999999999999999999"},
        {"\"prog_id\": 7", "\"prog_id\": true"},
        {"\"version\": 1", "\"version\": 1e20"}}) {
    std::string text = good;
    const auto at = text.find(was);
    ASSERT_NE(at, std::string::npos) << was;
    const auto state = state_from_json(text.replace(at, std::strlen(was), is));
    ASSERT_FALSE(state) << is;
    EXPECT_EQ(state.error().code(), EPROTO);
  }
}

TEST_F(StateDir, KnownStatesAreReadAgainWhenTheyHaveChanged) {
  const StateStore states = store();
  ASSERT_TRUE(states.save(sample()));
  KnownStates known(states);
  ASSERT_NE(known.find(3), nullptr);
  EXPECT_EQ(known.find(3)->target.offset_bytes, 4096U);
  ASSERT_TRUE(states.change(
      3, [](DeviceState& state) { state.target.offset_bytes = 8192; }));
  ASSERT_NE(known.find(3), nullptr);
  EXPECT_EQ(known.find(3)->target.offset_bytes, 8192U);
  EXPECT_EQ(known.find(4), nullptr);
  ASSERT_TRUE(states.remove(3, ""));
  EXPECT_EQ(known.find(3), nullptr);
}

}  // namespace
}  // namespace ublk
