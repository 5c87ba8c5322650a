// SPDX-License-Identifier: MIT
#include "device/probe.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace ublk {
namespace {

TEST(Probe, KnowsWhereModulesMustBeSigned) {
  using std::string_literals::operator""s;
  const std::string lockdown = "/sys/kernel/security/lockdown";
  const std::string enforce = "/sys/module/module/parameters/sig_enforce";
  const std::string secure_boot =
      "/sys/firmware/efi/efivars/"
      "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
  struct Case {
    std::string file;
    std::string text;
    bool demanded;
  };
  const Case cases[] = {
      {"/sys/nothing", "", false},
      {enforce, "N\n", false},
      {enforce, "Y\n", true},
      {lockdown, "[none] integrity confidentiality\n", false},
      {lockdown, "none [integrity] confidentiality\n", true},
      {lockdown, "none integrity [confidentiality]\n", true},
      {lockdown, "", false},
      {secure_boot, "\6\0\0\0\1"s, true},
      {secure_boot, "\6\0\0\0\0"s, false},
      {secure_boot, "\6\0\0\0"s, false},
  };
  const std::filesystem::path root = testing::TempDir() + "ublk-bpf-probe-root";
  for (const auto& [file, text, demanded] : cases) {
    std::filesystem::remove_all(root);
    const std::string path = root.string() + file;
    std::filesystem::create_directories(
        std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    EXPECT_EQ(demands_signed_modules(root), demanded) << file << " " << text;
  }
}

}  // namespace
}  // namespace ublk
