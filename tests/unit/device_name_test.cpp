// SPDX-License-Identifier: MIT
#include "sys/device_name.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "device/find.h"
#include "device/state.h"

namespace ublk {
namespace {

TEST(DeviceName, IsWhatAFileAndAUnitAndALinkCanBeCalled) {
  for (const char* good :
       {"a", "0a", "vm-1", "Web_data.2", "ublkb", "ublkbx", "ublkd0", "1.0"})
    EXPECT_TRUE(check_device_name(good)) << good;
  EXPECT_TRUE(check_device_name(std::string(64, 'x')));
  for (const char* bad :
       {"", "7", "0012", "ublkb0", "ublkc12", "-a", ".a", "_a", "a b", "a/b",
        "a@b", "a\n", "\xc3\xa4", "a=b", "a\"b"})
    EXPECT_FALSE(check_device_name(bad)) << bad;
  EXPECT_FALSE(check_device_name(std::string(65, 'x')));
}

class DeviceNames : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "ublk-bpf-names";
    std::filesystem::remove_all(dir_);
    states_.emplace(*StateStore::open(dir_));
  }
  DeviceState state(uint32_t dev_id, const std::string& name) {
    DeviceState state;
    state.dev_id = dev_id;
    state.name = name;
    state.instance = "i";
    state.target.type = "null";
    return state;
  }
  std::string text(const std::string& file) {
    std::ostringstream out;
    out << std::ifstream(dir_ + "/" + file).rdbuf();
    return out.str();
  }
  bool there(const std::string& file) {
    return std::filesystem::exists(dir_ + "/" + file);
  }

  std::string dir_;
  std::optional<StateStore> states_;
};

TEST_F(DeviceNames, StayWithTheStateAndAreThereForUdev) {
  ASSERT_TRUE(states_->save(state(3, "vm1")));
  EXPECT_EQ(states_->load(3)->name, "vm1");
  EXPECT_EQ(text("3.udev"), "UBLK_BPF_NAME=vm1\n");
  ASSERT_TRUE(states_->change(3, [](DeviceState& s) { s.server = "x"; }));
  EXPECT_EQ(states_->load(3)->name, "vm1");
  ASSERT_TRUE(states_->remove(3, ""));
  EXPECT_FALSE(there("3.udev"));
  ASSERT_TRUE(states_->save(state(4, "")));
  EXPECT_FALSE(there("4.udev"));
  EXPECT_EQ(states_->load(4)->name, "");
}

TEST_F(DeviceNames, AreOneDevicesAlone) {
  const auto all = [](uint32_t) { return true; };
  const auto none = [](uint32_t) { return false; };
  ASSERT_TRUE(states_->save_new(state(3, "vm1"), all));
  const auto second = states_->save_new(state(4, "vm1"), all);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EEXIST);
  EXPECT_NE(second.error().line().find("ublkb3"), std::string::npos);
  EXPECT_FALSE(there("4.json"));
  EXPECT_FALSE(there("4.udev"));
  // What a device that is gone has left keeps no name.
  EXPECT_TRUE(states_->save_new(state(4, "vm1"), none));
  EXPECT_TRUE(states_->save_new(state(5, "vm2"), all));
  EXPECT_TRUE(states_->save_new(state(6, ""), all));
  EXPECT_TRUE(states_->save_new(state(7, ""), all));
}

TEST_F(DeviceNames, ANodeIsToldByItsPathEvenIfItIsNotThere) {
  EXPECT_EQ(*find_device(*states_, "ublkb7"), 7U);
  EXPECT_EQ(*find_device(*states_, "/dev/ublkb104857"), 104857U);
  EXPECT_EQ(*find_device(*states_, "/dev/ublkc7"), 7U);
  for (const char* none :
       {"/dev/ublkb7x", "/dev/null", "nobody", "/", "ublkb"}) {
    const auto found = find_device(*states_, none);
    ASSERT_FALSE(found) << none;
    EXPECT_EQ(found.error().code(), ENODEV) << none;
  }
}

}  // namespace
}  // namespace ublk
