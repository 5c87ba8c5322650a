// SPDX-License-Identifier: MIT
#include "sys/file_identity.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "sys/backing.h"
#include "sys/borrow.h"

namespace ublk {
namespace {

FileIdentity file(uint64_t dev, uint64_t ino, uint64_t born_ns) {
  return {.dev = dev, .ino = ino, .born_ns = born_ns};
}
FileIdentity disk(uint64_t dev, uint64_t diskseq, const char* id,
                  uint64_t first_sector = 0) {
  return {.is_block = true,
          .dev = dev,
          .diskseq = diskseq,
          .first_sector = first_sector,
          .disk_id = id};
}

TEST(FileIdentity, TellsFilesAndDisksApart) {
  const struct {
    FileIdentity one, other;
    bool same;
    const char* what;
  } cases[] = {
      {file(1, 2, 3), file(1, 2, 3), true, "the same"},
      {file(1, 2, 3), file(1, 2, 0), true, "no time of birth is known"},
      {file(1, 2, 3), file(1, 2, 4), false, "the inode number is used again"},
      {file(1, 2, 3), file(1, 3, 3), false, "another inode"},
      {file(1, 2, 3), file(2, 2, 3), false, "another file system"},
      {disk(8, 5, ""), disk(8, 5, ""), true, "the same"},
      {disk(8, 5, ""), disk(8, 6, ""), false, "the name is used again"},
      {disk(8, 5, ""), disk(9, 5, ""), false, "another disk"},
      {disk(8, 5, "x"), disk(9, 6, "x"), true, "attached elsewhere"},
      {disk(8, 5, "x"), disk(9, 6, "y"), false, "another disk there"},
      {disk(8, 5, "x"), disk(8, 5, ""), true, "without sysfs"},
      {disk(8, 5, "x", 64), disk(9, 6, "x", 64), true, "the same partition"},
      {disk(8, 5, "x", 64), disk(9, 6, "x", 128), false, "another partition"},
      {disk(8, 5, "", 64), disk(8, 5, "", 128), false, "partitioned anew"},
      {disk(8, 5, "x"), disk(9, 6, "x", 64), false, "disk and partition"},
      {file(8, 0, 0), disk(8, 0, ""), false, "a file and a disk"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(c.one.same_as(c.other), c.same) << c.what;
    EXPECT_EQ(c.other.same_as(c.one), c.same) << c.what;
  }
}

class OpenFile : public testing::Test {
 protected:
  void SetUp() override { std::ofstream(path_) << "ours"; }
  void TearDown() override { ::unlink(path_.c_str()); }

  std::string path_ =
      testing::TempDir() + "identity-" + std::to_string(::getpid());
};

TEST_F(OpenFile, IsRefusedInPlaceOfAnotherAndBothAreNamed) {
  const auto ours = Backing::open(path_, {.buffered = true});
  ASSERT_TRUE(ours) << ours.error().line();
  ASSERT_EQ(::rename(path_.c_str(), (path_ + ".away").c_str()), 0);
  std::ofstream(path_) << "other";
  const auto other = Backing::open(path_, {.buffered = true});
  ASSERT_TRUE(other);
  EXPECT_TRUE(ours->check_is(ours->identity));
  const auto error = other->check_is(ours->identity).error();
  EXPECT_EQ(error.code(), ESTALE);
  for (const FileIdentity& one : {ours->identity, other->identity})
    EXPECT_NE(error.line().find(one.text()), std::string::npos);
  ::unlink((path_ + ".away").c_str());
}

TEST_F(OpenFile, CanBeHadFromAProcessWhenItHasNoNameAnyMore) {
  const auto ours = Backing::open(path_, {.buffered = true});
  ASSERT_TRUE(ours) << ours.error().line();
  ::unlink(path_.c_str());
  const UniqueFd borrowed = borrow_file(::getpid(), ours->identity, true);
  ASSERT_TRUE(borrowed.valid());
  const auto again = Backing::open(
      path_, {.read_only = true, .buffered = true, .again = borrowed.get()});
  ASSERT_TRUE(again) << again.error().line();
  EXPECT_TRUE(again->check_is(ours->identity));
  EXPECT_EQ(again->path, path_);
  char text[8] = "";
  EXPECT_EQ(::pread(again->fd.get(), text, sizeof(text), 0), 4);
  FileIdentity other = ours->identity;
  other.ino++;
  EXPECT_FALSE(borrow_file(::getpid(), other, true).valid());
  EXPECT_FALSE(borrow_file(0, ours->identity, true).valid());
}

TEST_F(OpenFile, ForReadingIsNotHadForWriting) {
  const auto ours = Backing::open(path_, {.read_only = true, .buffered = true});
  ASSERT_TRUE(ours);
  EXPECT_TRUE(borrow_file(::getpid(), ours->identity, false).valid());
  EXPECT_FALSE(borrow_file(::getpid(), ours->identity, true).valid());
}

}  // namespace
}  // namespace ublk
