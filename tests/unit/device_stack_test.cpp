// SPDX-License-Identifier: MIT
#include "device/device_stack.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>

#include "sys/unique_fd.h"

namespace ublk {
namespace {

namespace fs = std::filesystem;

// A tree like /sys, in which the file system of the test's own directory lies
// on a device of the test's choice.
class Stack : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(root_);
    fs::create_directories(root_ + "/dev/block");
    file_ = root_ + "/file.img";
    std::ofstream(file_) << "x";
    struct stat st;
    ASSERT_EQ(::stat(file_.c_str(), &st), 0);
    of_files_ = st.st_dev;
  }
  void TearDown() override { fs::remove_all(root_); }

  static std::string numbers(dev_t dev) {
    return std::to_string(major(dev)) + ":" + std::to_string(minor(dev));
  }
  std::string disk(const std::string& name, dev_t dev) {
    const std::string dir = root_ + "/devices/" + name;
    fs::create_directories(dir + "/slaves");
    std::ofstream(dir + "/dev") << numbers(dev) << "\n";
    fs::create_symlink(dir, root_ + "/dev/block/" + numbers(dev));
    return dir;
  }
  void slave(const std::string& of, const std::string& name) {
    fs::create_symlink(root_ + "/devices/" + name, of + "/slaves/" + name);
  }
  std::optional<std::vector<std::string>> way(dev_t target) {
    const auto fd = UniqueFd::open(file_, O_RDONLY);
    return DeviceStack(states_, root_).way(fd->get(), target);
  }

  std::string root_ =
      testing::TempDir() + "stack-" +
      testing::UnitTest::GetInstance()->current_test_info()->name();
  StateStore states_ = StateStore::open_existing(root_ + "/states");
  std::string file_;
  dev_t of_files_ = 0;
};

TEST_F(Stack, FindsAWayThroughDeviceMapper) {
  disk("ublkb0", makedev(259, 0));
  const std::string upper = disk("dm-1", of_files_);
  const std::string lower = disk("dm-0", makedev(253, 7));
  slave(upper, "dm-0");
  slave(lower, "ublkb0");
  EXPECT_EQ(way(makedev(259, 0)),
            (std::vector<std::string>{"dm-1", "dm-0", "ublkb0"}));
  EXPECT_FALSE(way(makedev(259, 1)));
}

TEST_F(Stack, FindsAWayFromAPartition) {
  const std::string whole = disk("ublkb0", makedev(259, 0));
  fs::create_directories(whole + "/ublkb0p1");
  std::ofstream(whole + "/ublkb0p1/partition") << "1\n";
  std::ofstream(whole + "/ublkb0p1/dev") << numbers(of_files_) << "\n";
  fs::create_symlink(whole + "/ublkb0p1",
                     root_ + "/dev/block/" + numbers(of_files_));
  EXPECT_EQ(way(makedev(259, 0)), (std::vector<std::string>{"ublkb0"}));
}

TEST_F(Stack, FindsAWayThroughTheFileOfALoopDevice) {
  const std::string loop = disk("loop0", makedev(7, 0));
  fs::create_directories(loop + "/loop");
  std::ofstream(loop + "/loop/backing_file") << file_ << "\n";
  const std::string upper = disk("dm-0", of_files_);
  slave(upper, "loop0");
  // The loop device's file is on dm-0 again: a ring that has no end.
  EXPECT_FALSE(way(makedev(259, 0)));
  EXPECT_EQ(way(makedev(7, 0)), (std::vector<std::string>{"dm-0", "loop0"}));
}

TEST_F(Stack, SaysNothingOfAFileSystemWithoutADevice) {
  disk("ublkb0", makedev(259, 0));
  EXPECT_FALSE(way(makedev(259, 0)));
}

}  // namespace
}  // namespace ublk
