// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <string>

// Each process has a directory of its own for testing::TempDir(), which goes
// with it: ctest runs several at a time, and their files have the same names.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::string dir = testing::TempDir() + "ublk-bpf-unit-XXXXXX";
  if (!::mkdtemp(dir.data())) {
    std::perror(dir.c_str());
    return 1;
  }
  ::setenv("TEST_TMPDIR", (dir + "/").c_str(), 1);
  const int status = RUN_ALL_TESTS();
  std::error_code ec;
  std::filesystem::remove_all(dir, ec);
  return status;
}
