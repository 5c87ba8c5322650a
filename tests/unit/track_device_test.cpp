// SPDX-License-Identifier: MIT
//
// What the commands make of a device that tracks what is written, without a
// kernel: its server's part is played by the target itself.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "device/clone.h"
#include "device/track.h"
#include "fake_control.h"
#include "layer/track_extents.h"
#include "layer_dir.h"
#include "server/track.h"

namespace ublk {
namespace {

constexpr uint64_t kBlock64 = 65536;
constexpr uint64_t kDeviceImage = 64 * kBlock64;

class TrackedDevice : public LayerDir {
 protected:
  void SetUp() override {
    LayerDir::SetUp();
    write("image", "x");
    std::filesystem::resize_file(at("image"), kDeviceImage);
    states_ = std::make_unique<StateStore>(*StateStore::open(at("run")));
    auto channel = std::make_unique<test::FakeControl>();
    fake_ = channel.get();
    control_ = std::make_unique<Control>(std::move(channel));
    hooks_.trouble = [this](const Error& e) { said_ += e.line() + "\n"; };
  }

  // As `add` and `recover` do it.
  void serve(uint32_t dev_id, bool recovered = false) {
    fake_->add(dev_id);
    TargetSpec spec;
    spec.type = "loop";
    spec.files = {at("image")};
    spec.max_io_bytes = 1 << 20;
    spec.track = at("track");
    auto target = open_target(spec);
    ASSERT_TRUE(target) << target.error().line();
    target_ = std::move(*target);
    if (!recovered) {
      KnownStates known(*states_);
      ASSERT_TRUE(write_left_maps(*control_, known, target_));
    }
    const auto connected =
        connect_track(*states_, hooks_, dev_id, target_, nullptr, recovered);
    ASSERT_TRUE(connected) << connected.error().line();
    ASSERT_TRUE(states_->save({.dev_id = dev_id,
                               .instance = "",
                               .target = target_.spec,
                               .attached = std::nullopt}));
  }
  // The server is gone; of its device what is said.
  void die(uint32_t dev_id, uint16_t state) {
    target_ = {};
    fake_->devices[dev_id].info.state = state;
  }
  void write_blocks(uint64_t block, uint64_t count = 1) {
    ublksrv_io_desc desc{};
    desc.op_flags = UBLK_IO_OP_WRITE;
    desc.start_sector = block * kBlock64 / 512;
    desc.nr_sectors = static_cast<uint32_t>(count * kBlock64 / 512);
    Io io;
    io.desc = &desc;
    target_.track->begin(io);
    target_.track->end(io);
  }
  Result<Marked> mark(uint32_t dev_id, const std::string& name = "") {
    return mark_device(*control_, *states_, dev_id, name);
  }
  // Blocks as "1 2 ", or "all: " and why.
  std::string listed(const std::string& since = "") {
    auto tracked = list_tracked(*states_, at("track"), since);
    if (!tracked) return tracked.error().line();
    if (!tracked->why.empty()) return "all: " + tracked->why;
    std::string text;
    for (uint64_t block = 0; block < kDeviceImage / kBlock64; block++)
      if (block / 64 < tracked->bits.size() &&
          tracked->bits[block / 64] >> block % 64 & 1)
        text += fmt("{} ", block);
    return text;
  }
  DeviceState state(uint32_t dev_id) { return *states_->load(dev_id); }

  std::unique_ptr<StateStore> states_;
  test::FakeControl* fake_ = nullptr;
  std::unique_ptr<Control> control_;
  ServeHooks hooks_;
  std::string said_;
  Target target_;
};

TEST_F(TrackedDevice, ListsWhatWasWrittenSinceAMark) {
  serve(0);
  EXPECT_TRUE(listed().contains("no mark yet"));
  write_blocks(1);
  ASSERT_TRUE(mark(0, "a"));
  EXPECT_EQ(listed(), "");
  write_blocks(2, 2);
  const auto second = mark(0, "b");
  ASSERT_TRUE(second) << second.error().line();
  EXPECT_EQ(second->changed_bytes, 2 * kBlock64);
  EXPECT_EQ(second->ended->name, "a");
  EXPECT_FALSE(second->ended->all);
  write_blocks(5);
  EXPECT_EQ(listed(), "5 ");
  EXPECT_EQ(listed("a"), "2 3 5 ");
  EXPECT_EQ(error_of(mark(0, "a")), EEXIST);
  EXPECT_EQ(error_of(list_tracked(*states_, at("track"), "c")), ENOENT);
  EXPECT_EQ(said_, "");
}

TEST_F(TrackedDevice, IsWrittenOutWhenItHasStopped) {
  serve(0);
  ASSERT_TRUE(mark(0));
  write_blocks(7);
  die(0, UBLK_S_DEV_DEAD);
  ASSERT_TRUE(write_map_out(*states_, state(0)));
  ASSERT_TRUE(states_->remove(0, ""));
  EXPECT_FALSE(exists("run/0.map"));
  EXPECT_EQ(listed(), "7 ");
}

TEST_F(TrackedDevice, GoesOnWithTheMapOfAServerThatHasDied) {
  serve(0);
  ASSERT_TRUE(mark(0));
  write_blocks(7);
  die(0, UBLK_S_DEV_QUIESCED);
  EXPECT_EQ(listed(), "7 ");
  serve(0, true);
  write_blocks(8);
  EXPECT_EQ(listed(), "7 8 ");
  EXPECT_EQ(said_, "");
}

TEST_F(TrackedDevice, CountsAllAsChangedWithoutItsMap) {
  serve(0);
  ASSERT_TRUE(mark(0, "a"));
  die(0, UBLK_S_DEV_QUIESCED);
  ASSERT_TRUE(states_->remove_file("0.map"));
  EXPECT_TRUE(listed().starts_with("all: "));
  serve(0, true);
  EXPECT_TRUE(said_.contains("all counts as changed")) << said_;
  EXPECT_TRUE(listed().starts_with("all: "));
  const auto next = mark(0, "b");
  ASSERT_TRUE(next);
  EXPECT_TRUE(next->ended->all);
  EXPECT_EQ(next->changed_bytes, kDeviceImage);
  EXPECT_EQ(listed(), "");
  EXPECT_TRUE(listed("a").starts_with("all: "));
}

// The first one's map stays until it is deleted, and must not be taken for the
// second one's, nor be saved over it.
TEST_F(TrackedDevice, IsNotConfusedWithADeadOneOfTheSameImage) {
  serve(0);
  ASSERT_TRUE(mark(0));
  write_blocks(7);
  die(0, UBLK_S_DEV_DEAD);
  serve(1);
  write_blocks(8);
  EXPECT_EQ(said_, "");
  EXPECT_EQ(listed(), "7 8 ");
  ASSERT_TRUE(write_map_out(*states_, state(0)));
  EXPECT_EQ(listed(), "7 8 ");
}

// Its count stays when a server dies with it in hand.
TEST_F(TrackedDevice, IsNotMarkedWhileAWriteIsNobodys) {
  serve(0);
  target_.track->memory().begin_request();
  const auto refused = mark(0, "a");
  ASSERT_EQ(error_of(refused), EAGAIN);
  EXPECT_TRUE(refused.error().line().contains("recover -n 0"));
  EXPECT_TRUE(listed().contains("no mark yet"));
  die(0, UBLK_S_DEV_QUIESCED);
  serve(0, true);
  EXPECT_TRUE(mark(0, "a"));
}

TEST_F(TrackedDevice, ThatHasStoppedOrDoesNotTrackHasNoMarks) {
  serve(0);
  die(0, UBLK_S_DEV_DEAD);
  EXPECT_EQ(error_of(mark(0)), ENODEV);
  fake_->add(3);
  TargetSpec plain;
  plain.type = "null";
  ASSERT_TRUE(states_->save({.dev_id = 3,
                             .instance = "",
                             .target = plain,
                             .attached = std::nullopt}));
  EXPECT_EQ(error_of(mark(3)), EINVAL);
  EXPECT_EQ(error_of(track_file_of(*states_, 3)), EINVAL);
}

TEST_F(TrackedDevice, KeepsInItsStateWhatItTracks) {
  serve(0);
  EXPECT_EQ(state(0).target.track, at("track"));
  EXPECT_EQ(state(0).target.track_block_bytes, kBlock64);
  DeviceState with = state(0);
  with.track_maps = {.bits = 7, .shared = 8};
  const auto again = state_from_json(state_to_json(with));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->track_maps.bits, 7U);
  EXPECT_EQ(again->track_maps.shared, 8U);
}

}  // namespace
}  // namespace ublk
