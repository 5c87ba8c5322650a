// SPDX-License-Identifier: MIT
#include "ctrl/executor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "sys/process.h"
#include "sys/ring.h"
#include "sys/text_file.h"

namespace ublk {

namespace {

using namespace std::chrono_literals;

constexpr const char* kName = "ublk-bpf-ctl";
// What can be interrupted has ended by then.
constexpr auto kEnd = 200ms;

bool poll_in(int fd, std::chrono::milliseconds time) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, static_cast<int>(time.count())) > 0;
}

bool tell(int channel) {
  const char word = 0;
  return ::send(channel, &word, 1, MSG_NOSIGNAL) == 1;
}

bool hear(int channel) {
  char word = 0;
  ssize_t got = 0;
  do got = ::recv(channel, &word, 1, 0);
  while (got < 0 && errno == EINTR);
  return got == 1;
}

// Keeps nobody waiting who reads what the command prints until its end.
void leave_terminal() {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {0, 1, 2})
    if (null >= 0)
      ::dup2(null, fd);
    else
      ::close(fd);
}

void close_all_but(std::initializer_list<int> kept) {
  std::vector<int> fds(kept);
  std::erase_if(fds, [](int fd) { return fd < 3; });
  std::ranges::sort(fds);
  unsigned from = 3;
  for (const int fd : fds) {
    if (static_cast<unsigned>(fd) > from)
      ::close_range(from, static_cast<unsigned>(fd) - 1, 0);
    from = static_cast<unsigned>(fd) + 1;
  }
  ::close_range(from, ~0U, 0);
}

}  // namespace

int execute_control(io_uring* ring, int control_fd, uint32_t op,
                    const ublksrv_ctrl_cmd& command) {
  io_uring_sqe* sqe = io_uring_get_sqe(ring);
  // Twice as large as its type: the command has the second half too.
  std::fill_n(reinterpret_cast<volatile char*>(sqe), 2 * sizeof(*sqe), 0);
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = control_fd;
  sqe->cmd_op = op;
  *reinterpret_cast<ublksrv_ctrl_cmd*>(sqe->cmd) = command;
  int ret = io_uring_submit(ring);
  if (ret < 0) return ret;
  io_uring_cqe* cqe = nullptr;
  do ret = io_uring_wait_cqe(ring, &cqe);
  while (ret == -EINTR || ret == -EAGAIN);
  if (ret < 0) return ret;
  ret = cqe->res;
  io_uring_cqe_seen(ring, cqe);
  return ret;
}

void Executor::Unmap::operator()(Shared* shared) const {
  ::munmap(shared, sizeof(Shared));
}

void Executor::run(Shared& shared, int channel, int control_fd) {
  auto ring = Ring::for_control();
  shared.result = ring ? 0 : negative(ring.error().code());
  if (!tell(channel) || !ring) ::_exit(0);
  while (hear(channel)) {
    shared.result =
        execute_control(ring->get(), control_fd, shared.op, shared.command);
    if (!tell(channel)) break;
  }
  ::_exit(0);
}

Result<Executor> Executor::start(int control_fd, ExecutorFiles files,
                                 int keep) {
  constexpr const char* kAttempt = "a process for control commands";
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail_sys(errno, "{}", kAttempt);
  std::unique_ptr<Shared, Unmap> shared(static_cast<Shared*>(memory));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail_sys(errno, "{}", kAttempt);
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return fail_sys(errno, "{}", kAttempt);
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(0);
    ::prctl(PR_SET_NAME, kName);
    leave_terminal();
    // It lives as long as a server does, and pins no mount of the host's.
    if (::chdir("/") != 0) ::_exit(1);
    ours.reset();
    if (files == ExecutorFiles::control)
      close_all_but({theirs.get(), control_fd, keep});
    run(*shared, theirs.get(), control_fd);
  }
  theirs.reset();
  Executor executor(std::move(shared), std::move(ours), pid, pidfd_of(pid));
  if (!hear(executor.channel_.get()))
    return fail(ECHILD, "{}: it has ended", kAttempt);
  // With the hint that belongs to it.
  if (executor.shared_->result < 0) TRY(Ring::for_control());
  return executor;
}

Executor::~Executor() {
  if (!channel_.valid()) return;
  channel_.reset();
  ::kill(pid_, SIGKILL);  // a child that has not been waited for
  if (wait_gone(pidfd_, kEnd)) ::waitpid(pid_, nullptr, 0);
}

void Executor::begin(uint32_t op, const ublksrv_ctrl_cmd& command) {
  shared_->op = op;
  shared_->command = command;
  tell(channel_.get());
}

std::optional<int> Executor::wait(std::chrono::milliseconds time) {
  if (!poll_in(channel_.get(), time)) return std::nullopt;
  // The one who was to do it was killed.
  return hear(channel_.get()) ? shared_->result : negative(EINTR);
}

std::string Executor::waits_in() const {
  for (const ThreadInfo& thread : threads_of(pid_)) {
    if (!thread.name.starts_with("iou-wrk")) continue;
    const auto where =
        read_text(fmt("/proc/{}/task/{}/wchan", pid_, thread.tid));
    if (where && *where != "0") return *where;
  }
  return {};
}

}  // namespace ublk
