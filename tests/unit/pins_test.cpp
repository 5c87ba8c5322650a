// SPDX-License-Identifier: MIT
#include "device/pins.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

namespace ublk {
namespace {

namespace fs = std::filesystem;

// What is pinned, a test of the kernel's shows.
class PinDir : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(dir_);
    fs::create_directories(dir_ / "ublkb3");
  }
  void TearDown() override { fs::remove_all(dir_); }
  Pins pins(std::vector<std::string> names) {
    for (const std::string& name : names)
      std::ofstream(dir_ / "ublkb3" / name).close();
    return {dir_ / "ublkb3", std::move(names)};
  }

  const fs::path dir_ =
      testing::TempDir() + "pins-" +
      testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(PinDir, HasToBeInABpfFileSystem) {
  for (const fs::path& dir : {dir_, dir_ / "new"}) {
    const auto made = NewPins::create(dir, 3, {});
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code(), EINVAL);
    EXPECT_TRUE(made.error().line().contains("/sys/fs/bpf"));
  }
  EXPECT_FALSE(fs::exists(dir_ / "new")) << "nothing is made elsewhere";
}

TEST_F(PinDir, IsRemovedWithItsPins) {
  remove_pins(pins({"a", "b"}));
  EXPECT_FALSE(fs::exists(dir_ / "ublkb3"));
  EXPECT_TRUE(fs::exists(dir_));
  remove_pins({dir_ / "ublkb3", {"a"}});  // again
}

TEST_F(PinDir, KeepsWhatIsNotItsOwnOrStillPinned) {
  const Pins old = pins({"a", "b"});
  pins({"foreign"});
  remove_pins(old, {old.dir, {"b"}});
  EXPECT_FALSE(fs::exists(old.dir + "/a"));
  EXPECT_TRUE(fs::exists(old.dir + "/b"));
  remove_pins(old);
  EXPECT_TRUE(fs::exists(old.dir + "/foreign"));
}

}  // namespace
}  // namespace ublk
