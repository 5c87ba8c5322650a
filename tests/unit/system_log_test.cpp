// SPDX-License-Identifier: MIT
#include "cli/system_log.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace ublk::cli {
namespace {

// A journal's socket, and what came.
class Journal : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove(path_);
    sockaddr_un at{.sun_family = AF_UNIX, .sun_path = {}};
    ASSERT_LT(path_.size(), sizeof(at.sun_path));
    std::memcpy(at.sun_path, path_.data(), path_.size());
    fd_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    ASSERT_EQ(
        ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)),
        0)
        << std::strerror(errno);
  }
  std::string entry() const {
    char text[4096];
    const ssize_t got = ::recv(fd_.get(), text, sizeof(text), 0);
    return got < 0 ? "" : std::string(text, static_cast<size_t>(got));
  }

  const std::string path_ = testing::TempDir() + "journal";
  UniqueFd fd_;
};

TEST_F(Journal, EntryHasTheDevicesFields) {
  SystemLog log = SystemLog::connect(path_);
  log.set_names({{7, "vm1"}, {12, ""}});
  // What a server that has left the mounts does not have.
  std::filesystem::remove(path_);
  log.write(Error::sys(EIO, "fsync").in("ublkb7"));
  EXPECT_EQ(entry(),
            fmt("MESSAGE=ublkb7: fsync: Input/output error\nPRIORITY=3\n"
                "SYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=ublk-bpf\n"
                "SYSLOG_PID={}\nERRNO=5\nUBLK_BPF_DEVICE=ublkb7\n"
                "UBLK_BPF_NAME=vm1\n",
                ::getpid()));
  log.write(Error::plain(EBUSY, "ublkb12: is in use"));
  EXPECT_TRUE(entry().ends_with("ERRNO=16\nUBLK_BPF_DEVICE=ublkb12\n"));
}

TEST_F(Journal, OfTwoDevicesNoneIsNamedUnlessTheErrorDoes) {
  SystemLog log = SystemLog::connect(path_);
  log.set_names({{7, "vm1"}, {12, ""}});
  for (const char* what : {"mlockall", "ublkb: mlockall", "ublkb7 mlockall"}) {
    log.write(Error::plain(EPERM, what));
    EXPECT_TRUE(entry().ends_with("\nERRNO=1\n")) << what;
  }
  log.set_names({{7, "vm1"}});
  log.write(Error::plain(EPERM, "mlockall"));
  EXPECT_TRUE(entry().ends_with("UBLK_BPF_DEVICE=ublkb7\nUBLK_BPF_NAME=vm1\n"));
}

// Each field is a line: what is in a name must not make one.
TEST_F(Journal, LinesOfAnErrorAreNoFields) {
  const SystemLog log = SystemLog::connect(path_);
  log.write(Error::plain(EIO, "a\nPRIORITY=7"));
  EXPECT_TRUE(entry().starts_with("MESSAGE=a\\nPRIORITY=7\nPRIORITY=3\n"));
}

// Who writes the journal may wait for a disk of this process.
TEST_F(Journal, OneThatIsBehindIsNotWaitedFor) {
  const SystemLog log = SystemLog::connect(path_);
  for (int i = 0; i < 10000; i++) log.write(Error::plain(EIO, "again"));
  EXPECT_TRUE(entry().starts_with("MESSAGE=again\n"));
}

TEST_F(Journal, WithoutOneItIsTheSystemsLog) {
  const SystemLog log = SystemLog::connect("/nonexistent/socket", path_);
  log.write(Error::plain(EBUSY, "ublkb12: is in use"));
  EXPECT_EQ(entry(), fmt("<27>ublk-bpf[{}]: ublkb12: is in use", ::getpid()));
  SystemLog::connect("/nonexistent/socket", "/nonexistent/log")
      .write(Error::plain(EBUSY, "nobody hears it"));
}

}  // namespace
}  // namespace ublk::cli
