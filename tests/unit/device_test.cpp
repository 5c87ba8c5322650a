// SPDX-License-Identifier: MIT
#include "device/device.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "device/bpf.h"
#include "device/lifecycle.h"
#include "fake_control.h"
#include "server/queue.h"

namespace ublk {
namespace {

using nlohmann::json;

class Devices : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(dir_);
    auto channel = std::make_unique<test::FakeControl>();
    fake_ = channel.get();
    control_ = std::make_unique<Control>(std::move(channel));
    states_ = std::make_unique<StateStore>(std::move(*StateStore::open(dir_)));
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void save(uint32_t dev_id, std::optional<AttachedState> attached) {
    DeviceState state;
    state.dev_id = dev_id;
    state.instance = "first";
    state.target = {.type = "loop", .files = {"/data"}};
    state.attached = std::move(attached);
    ASSERT_TRUE(states_->save(state));
  }
  json device(uint32_t dev_id) {
    auto found = describe(*control_, *states_, dev_id);
    EXPECT_TRUE(found) << found.error().line();
    return json::parse(cli::device_json(*found));
  }

  std::string dir_ =
      testing::TempDir() + "devices-" +
      testing::UnitTest::GetInstance()->current_test_info()->name();
  test::FakeControl* fake_;
  std::unique_ptr<Control> control_;
  std::unique_ptr<StateStore> states_;
};

TEST_F(Devices, WithoutBpfHaveNoBpfObject) {
  fake_->add(4, UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
  save(4, std::nullopt);
  const json d = device(4);
  EXPECT_EQ(d["dev_id"], 4);
  EXPECT_EQ(d["block"], "/dev/ublkb4");
  EXPECT_EQ(d["char"], "/dev/ublkc4");
  EXPECT_EQ(d["state"], "live");
  EXPECT_EQ(d["target"], "loop");
  EXPECT_EQ(d["files"], json::array({"/data"}));
  EXPECT_EQ(d["nr_hw_queues"], 2);
  EXPECT_EQ(d["queue_depth"], 64);
  EXPECT_EQ(d["size_bytes"], 1 << 20);
  EXPECT_EQ(d["block_size"], 4096);
  EXPECT_EQ(d["read_only"], false);
  EXPECT_EQ(d["recovery"], "reissue");
  EXPECT_EQ(d["bpf_capable"], false);
  EXPECT_TRUE(d["bpf"].is_null());
  EXPECT_TRUE(d["server"].is_null());
}

TEST_F(Devices, WithAProgramShowWhatTheKernelAndTheStateKnow) {
  auto& bpf = fake_->add(1, UBLK_F_BPF).bpf;
  bpf.prog_id = 7;
  bpf.version = 2;
  bpf.complete_id = 8;
  bpf.attach_flags = UBLK_BPF_ATTACH_F_NO_INLINE | UBLK_BPF_ATTACH_F_COMPLETE |
                     UBLK_BPF_ATTACH_F_PASS_ERRORS;
  bpf.redirected = 10;
  bpf.bios = 4;
  bpf.rounds = 3;
  bpf.retries = 1;
  bpf.passed_late = 2;
  bpf.errors_passed = 1;
  bpf.refused[UBLK_BPF_REFUSED_FD] = {
      .error = EBADF, .reserved = 0, .count = 3};
  bpf.last.reason = UBLK_BPF_REFUSED_FD;
  bpf.last.op = UBLK_IO_OP_WRITE;
  bpf.last.fd = 9;
  bpf.last.q_id = 1;
  bpf.last.tag = 63;
  save(1, AttachedState{.prog_id = 7,
                        .program = "loop",
                        .object = "/x.o",
                        .files = {"/data"},
                        .knobs = {{"offset", "42"}, {"link", "true"}}});
  const json b = device(1)["bpf"];
  EXPECT_EQ(b["attached"], true);
  EXPECT_EQ(b["prog_id"], 7);
  EXPECT_EQ(b["program"], "loop");
  EXPECT_EQ(b["object"], "/x.o");
  EXPECT_EQ(b["knobs"], (json{{"offset", 42}, {"link", true}}));
  EXPECT_EQ(b["version"], 2);
  EXPECT_EQ(b["complete_id"], 8);
  EXPECT_EQ(b["flags"], json::array({"no_inline", "complete", "pass_errors"}));
  EXPECT_EQ(b["counters"]["redirected"], 10);
  EXPECT_EQ(b["counters"]["bios"], 4);
  EXPECT_EQ(b["counters"]["rounds"], 3);
  EXPECT_EQ(b["counters"]["retries"], 1);
  EXPECT_EQ(b["counters"]["passed_late"], 2);
  EXPECT_EQ(b["counters"]["errors_passed"], 1);
  EXPECT_EQ(
      b["refused"],
      json::array({{{"reason", "fd"}, {"errno", "EBADF"}, {"count", 3}}}));
  EXPECT_EQ(b["last_refused"]["reason"], "fd");
  EXPECT_EQ(b["last_refused"]["op"], "write");
  EXPECT_EQ(b["last_refused"]["fd"], 9);
  EXPECT_EQ(b["last_refused"]["q_id"], 1);
  EXPECT_EQ(b["last_refused"]["tag"], 63);
  bpf.last.q_id = bpf.last.tag = UBLK_BPF_NO_TAG;
  EXPECT_TRUE(device(1)["bpf"]["last_refused"]["tag"].is_null());
  EXPECT_TRUE(device(1)["bpf"]["last_refused"]["q_id"].is_null());
}

TEST_F(Devices, OfAKernelThatDoesNotSayItsVersionHaveTheFirst) {
  fake_->add(1, UBLK_F_BPF).bpf.prog_id = 7;
  const json b = device(1)["bpf"];
  EXPECT_EQ(b["version"], 1);
  EXPECT_TRUE(b["complete_id"].is_null());
}

TEST_F(Devices, OfAnotherTreesDriverAreDevicesWithoutOurBpf) {
  fake_->add(1, UBLK_F_BPF);
  fake_->fails[UBLK_U_CMD_GET_BPF_INFO] = -EOPNOTSUPP;
  EXPECT_TRUE(device(1)["bpf"].is_null());
}

TEST_F(Devices, AreDrainedIfTheKernelCanDoIt) {
  auto& bpf = fake_->add(0, UBLK_F_BPF).bpf;
  bpf.prog_id = 7;
  const auto refused = drain_program(*control_, *states_, 0);
  EXPECT_EQ(refused.error().code(), EOPNOTSUPP);
  EXPECT_NE(refused.error().line().find("has version 1"), std::string::npos);
  bpf.version = 2;
  EXPECT_TRUE(drain_program(*control_, *states_, 0));
  EXPECT_EQ(fake_->calls.back(), UBLK_U_CMD_DRAIN_BPF);
  bpf.prog_id = 0;
  const auto nothing = drain_program(*control_, *states_, 0);
  EXPECT_EQ(nothing.error().code(), ENOENT);
  EXPECT_NE(nothing.error().line().find("no program"), std::string::npos);
  fake_->add(1);
  EXPECT_EQ(drain_program(*control_, *states_, 1).error().code(), EOPNOTSUPP);
}

TEST_F(Devices, ThatDoNotDrainInTimeSayWhatTheyWaitFor) {
  auto& bpf = fake_->add(0, UBLK_F_BPF).bpf;
  bpf.version = 2;
  fake_->fails[UBLK_U_CMD_DRAIN_BPF] = -ETIME;
  const auto late = drain_program(*control_, *states_, 0);
  EXPECT_EQ(late.error().code(), ETIMEDOUT);
  const std::string line = late.error().line();
  EXPECT_NE(line.find("the program had redirected"), std::string::npos) << line;
  EXPECT_NE(line.find("nothing was changed"), std::string::npos) << line;
}

TEST_F(Devices, WhoseProgramIsOfAnotherToolDoNotClaimToKnowIt) {
  fake_->add(1, UBLK_F_BPF).bpf.prog_id = 8;
  save(1, AttachedState{.prog_id = 7,
                        .program = "loop",
                        .object = "/x.o",
                        .files = {},
                        .knobs = {}});
  const json b = device(1)["bpf"];
  EXPECT_EQ(b["attached"], true);
  EXPECT_EQ(b["prog_id"], 8);
  EXPECT_TRUE(b["program"].is_null());
}

TEST_F(Devices, KeepTheirCountersWhenNothingIsAttached) {
  fake_->add(1, UBLK_F_BPF).bpf.nr_attach = 2;
  const json b = device(1)["bpf"];
  EXPECT_EQ(b["attached"], false);
  EXPECT_EQ(b["counters"]["nr_attach"], 2);
  EXPECT_EQ(b["refused"], json::array());
  EXPECT_TRUE(b["last_refused"].is_null());
}

TEST_F(Devices, WithADamagedStateAreStillThere) {
  fake_->add(2);
  save(2, std::nullopt);
  std::filesystem::resize_file(dir_ + "/2.json", 10);
  auto found = describe(*control_, *states_, 2);
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->state);
  EXPECT_EQ(found->state_error->code(), EPROTO);
}

TEST_F(Devices, AreStoppedBeforeTheyAreDeleted) {
  fake_->add(3);
  save(3, std::nullopt);
  ASSERT_TRUE(remove_device(*control_, *states_, 3));
  const std::vector<uint32_t> expected = {
      UBLK_U_CMD_GET_DEV_INFO, UBLK_U_CMD_STOP_DEV, UBLK_U_CMD_DEL_DEV};
  EXPECT_EQ(fake_->calls, expected);
  EXPECT_EQ(states_->load(3).error().code(), ENOENT);
}

TEST_F(Devices, ThatAreGoneLeaveNoState) {
  save(3, std::nullopt);
  const auto removed = remove_device(*control_, *states_, 3);
  EXPECT_EQ(removed.error().code(), ENODEV);
  EXPECT_NE(removed.error().line().find("ublkb3"), std::string::npos);
  EXPECT_EQ(states_->load(3).error().code(), ENOENT);
}

TEST_F(Devices, ThatCannotBeStoppedKeepTheirState) {
  fake_->add(3);
  fake_->fails[UBLK_U_CMD_STOP_DEV] = -EINTR;
  save(3, std::nullopt);
  EXPECT_EQ(remove_device(*control_, *states_, 3).error().code(), EINTR);
  EXPECT_TRUE(states_->load(3));
  EXPECT_TRUE(fake_->devices.contains(3));
}

TEST_F(Devices, WithoutBpfSayThatTheyAreStillServed) {
  fake_->add(0);
  const auto detached = detach_program(*control_, *states_, 0);
  EXPECT_EQ(detached.error().code(), EOPNOTSUPP);
  EXPECT_NE(detached.error().line().find("still served"), std::string::npos);
}

TEST_F(Devices, LoseTheirProgramOnce) {
  fake_->add(0, UBLK_F_BPF).bpf.prog_id = 7;
  save(0, AttachedState{.prog_id = 7,
                        .program = "p",
                        .object = "/x.o",
                        .files = {},
                        .knobs = {}});
  EXPECT_TRUE(detach_program(*control_, *states_, 0));
  EXPECT_FALSE(states_->load(0)->attached);
  EXPECT_EQ(detach_program(*control_, *states_, 0).error().code(), ENOENT);
}

TEST_F(Devices, AreAskedForFeaturesThatOldDriversCannotTell) {
  fake_->features = UBLK_F_BPF | UBLK_F_USER_RECOVERY;
  EXPECT_EQ(*control_->features(), fake_->features);
  fake_->fails[UBLK_U_CMD_GET_FEATURES] = -EOPNOTSUPP;
  EXPECT_EQ(*control_->features(), 0U);
  fake_->fails[UBLK_U_CMD_GET_FEATURES] = -EPERM;
  EXPECT_NE(control_->features().error().line().find("root"),
            std::string::npos);
}

TEST(Json, OfAnErrorHasMessageErrnoAndHint) {
  const json e = json::parse(cli::error_json(
      Error::sys(EBUSY, "ublkb0: attach").hint("--replace takes its place")));
  EXPECT_EQ(e["error"]["message"], "ublkb0: attach: Device or resource busy");
  EXPECT_EQ(e["error"]["errno"], "EBUSY");
  EXPECT_EQ(e["error"]["hint"], "--replace takes its place");
  EXPECT_FALSE(e["error"].contains("log"));
}

TEST(Json, IsOneLineWhateverBytesAPathHas) {
  Device device;
  device.state.emplace();
  device.state->target.files = {"/a\nb\xff"};
  const std::string text = cli::device_json(device);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_TRUE(json::accept(text));
}

TEST(Text, HasTheStateWhereOtherToolsScriptsCountIt) {
  Device device;
  device.info.state = UBLK_S_DEV_LIVE;
  const std::string text = cli::device_text(device);
  std::istringstream lines(text);
  std::string line, word;
  while (std::getline(lines, line) && line.find("state") == line.npos) {
  }
  std::istringstream words(line);
  for (int i = 0; i < 11; i++) words >> word;
  EXPECT_EQ(word, "LIVE") << text;
}

// The given field of the one line that has this word in it.
std::string field(const std::string& text, const char* of, int number) {
  std::istringstream lines(text);
  std::string line, found, word;
  while (std::getline(lines, line))
    if (line.find(of) != line.npos) {
      EXPECT_EQ(found, "") << text;
      found = line;
    }
  std::istringstream words(found);
  while (number-- > 0) words >> word;
  return word;
}

TEST(Text, IsLaidOutAsAnotherToolsScriptsReadIt) {
  Device device;
  device.info.state = UBLK_S_DEV_QUIESCED;
  device.info.ublksrv_pid = 4711;
  device.params.basic.dev_sectors = 8;
  struct {
    const char* format;
    int state;
  } const cases[] = {{"ublk-bpf", 11}, {"kublk", 11}, {"ublksrv", 9}};
  for (const auto& c : cases) {
    const auto text_of = cli::find_device_text(c.format);
    ASSERT_TRUE(text_of) << c.format;
    const std::string text = (*text_of)(device);
    EXPECT_EQ(field(text, "state", c.state), "QUIESCED") << text;
    EXPECT_EQ(field(text, "pid", 7), "4711") << text;
    EXPECT_TRUE(text.starts_with("dev id 0: nr_hw_queues ")) << text;
    EXPECT_FALSE(text.ends_with('\n'));
  }
  const auto none = cli::find_device_text("rublk");
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().line().find("ublksrv"), std::string::npos);
}

TEST(Names, OfRecoveryModes) {
  EXPECT_EQ(recovery_name(0), "none");
  EXPECT_EQ(recovery_name(UBLK_F_USER_RECOVERY), "requeue");
  EXPECT_EQ(recovery_name(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO),
            "fail_io");
}

TEST(Names, OfEveryReason) {
  for (uint32_t reason = 0; reason < UBLK_BPF_NR_REFUSED; reason++)
    EXPECT_FALSE(std::isdigit(reason_name(reason)[0])) << reason;
  EXPECT_EQ(reason_name(UBLK_BPF_REFUSED_UNCOVERED), "uncovered");
  EXPECT_EQ(reason_name(UBLK_BPF_REFUSED_FILE_MODE), "file_mode");
  EXPECT_EQ(reason_name(UBLK_BPF_NR_REFUSED), "20");
}

TEST(Names, OfFeatures) {
  EXPECT_EQ(
      feature_names(UBLK_F_USER_COPY | UBLK_F_IO_DESC_SIZE | UBLK_F_BPF |
                    uint64_t{1} << 50),
      (std::vector<std::string>{"user_copy", "io_desc_size", "bpf", "bit 50"}));
  EXPECT_TRUE(feature_names(0).empty());
}

TEST(Names, OfThreads) {
  EXPECT_EQ(queue_thread_name(3, 12), "ublk3q12");
  EXPECT_EQ(device_of_thread(queue_thread_name(1048575, 4095)), 1048575U);
  for (const char* other : {"ublk-bpf", "ublk", "ublk3", "ublk3x", "q3", ""})
    EXPECT_FALSE(device_of_thread(other)) << other;
}

TEST_F(Devices, ThatAreStoppedSafelyNeedADriverThatCan) {
  fake_->add(3);
  EXPECT_EQ(stop_device(*control_, *states_, 3, true).error().code(),
            EOPNOTSUPP);
  EXPECT_TRUE(stop_device(*control_, *states_, 3, false));
  EXPECT_TRUE(stop_device(*control_, *states_, 3, true)) << "it is stopped";
}

TEST_F(Devices, AreNotCutOffUnasked) {
  fake_->features = UBLK_F_UPDATE_SIZE;
  fake_->add(3);
  const auto resize = [&](uint64_t bytes, bool shrink = false) {
    return resize_device(*control_, *states_, 3, {bytes, shrink});
  };
  EXPECT_EQ(resize(4096).error().code(), EINVAL);
  EXPECT_EQ(resize(4096, true).value_or(0), 4096U);
  EXPECT_EQ(resize(1 << 20).value_or(0), 1U << 20);
  EXPECT_EQ(resize(1000, true).error().code(), EINVAL) << "no whole blocks";
  EXPECT_EQ(resize(0).error().code(), EINVAL) << "of what file?";
  fake_->features = 0;
  EXPECT_EQ(resize(1 << 20).error().code(), EOPNOTSUPP);
}

TEST_F(Devices, ThatAnotherCommandHoldsAreShownAsFarAsTheyCanBe) {
  fake_->add(3, UBLK_F_BPF);
  for (const uint32_t held : {UBLK_U_CMD_GET_PARAMS, UBLK_U_CMD_GET_BPF_INFO}) {
    fake_->fails = {{held, -ETIME}};
    const auto device = describe(*control_, *states_, 3);
    ASSERT_TRUE(device);
    ASSERT_TRUE(device->stuck);
    EXPECT_EQ(device->stuck->code(), ETIMEDOUT);
    EXPECT_NE(device->stuck->line().find("ublkb3: "), std::string::npos);
    EXPECT_NE(device->stuck->line().find("another command"), std::string::npos);
    EXPECT_FALSE(device->bpf);
    EXPECT_TRUE(json::parse(cli::device_json(*device))["stuck"].is_string());
  }
}

TEST_F(Devices, OfWhichOneCannotBeDeletedGoSingly) {
  fake_->add(3);
  fake_->add(5);
  const auto removed =
      remove_devices(*control_, *states_, {3, 4, 5}, Removal::waits, {});
  EXPECT_EQ(removed.deleted, (std::vector<uint32_t>{3, 5}));
  ASSERT_EQ(removed.failed.size(), 1U);
  EXPECT_EQ(removed.failed[0].first, 4U);
  EXPECT_EQ(removed.failed[0].second.code(), ENODEV);
}

TEST(Servers, AreProcessesThatHaveTheDeviceOpen) {
  ublksrv_ctrl_dev_info info{};
  for (const int pid : {::getpid(), 1, 0, -1}) {
    info.ublksrv_pid = pid;
    EXPECT_FALSE(Servers().stats(info)) << pid;
    EXPECT_FALSE(ServerProcess::find(info)) << pid;
  }
}

}  // namespace
}  // namespace ublk
