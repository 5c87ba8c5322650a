// SPDX-License-Identifier: MIT
//
// Programs that come with the command are given by their names, all others by
// paths.

#include "device/own_program.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace ublk {
namespace {

TEST(OwnProgram, ANameIsNoPath) {
  for (const char* name : {"loop", "clone", "my-policy", "x.bpf"})
    EXPECT_TRUE(is_program_name(name)) << name;
  for (const char* path :
       {"loop.bpf.o", "./loop", "/usr/lib/loop", "a/b", ".o"})
    EXPECT_FALSE(is_program_name(path)) << path;
}

TEST(OwnProgram, APathStaysAsItIs) {
  for (const char* path : {"loop.bpf.o", "./missing", "/nowhere/x.o"}) {
    const auto found = find_object(path);
    ASSERT_TRUE(found) << path;
    EXPECT_EQ(*found, path);
  }
}

TEST(OwnProgram, ANameThatNoneHasIsRefusedAndSaysWhereItWasLookedFor) {
  const auto found = find_object("nosuch");
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code(), ENOENT);
  const std::string text = found.error().message();
  EXPECT_NE(text.find("lib/ublk-bpf/bpf/nosuch.bpf.o"), std::string::npos)
      << text;
  EXPECT_FALSE(found.error().hint_text().empty());
}

}  // namespace
}  // namespace ublk
