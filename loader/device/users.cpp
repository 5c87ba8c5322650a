// SPDX-License-Identifier: MIT
#include "device/users.h"

#include <fcntl.h>
#include <libmount.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <thread>

#include "device/state.h"
#include "sys/open_files.h"
#include "sys/process.h"
#include "sys/text_file.h"
#include "sys/waiting.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::steady_clock;

// The numbers of the disk and its partitions, with their names.
using Nodes = std::map<dev_t, std::string>;

void add_node(Nodes& nodes, const fs::path& dir) {
  const std::string text = read_text((dir / "dev").string()).value_or("");
  unsigned major = 0, minor = 0;
  if (std::sscanf(text.c_str(), "%u:%u", &major, &minor) == 2)
    nodes.emplace(::makedev(major, minor), dir.filename().string());
}

Nodes nodes_of(uint32_t dev_id) {
  Nodes nodes;
  const fs::path disk = fmt("/sys/block/ublkb{}", dev_id);
  add_node(nodes, disk);
  std::error_code end;
  fs::directory_iterator it(disk, end);
  for (; !end && it != fs::directory_iterator(); it.increment(end))
    if (it->path().filename().string().starts_with(disk.filename().string()))
      add_node(nodes, it->path());
  return nodes;
}

bool is_node(const Nodes& nodes, std::string_view source) {
  return std::ranges::any_of(
      nodes, [&](const auto& n) { return source == "/dev/" + n.second; });
}

// One process of each mount namespace.
std::vector<pid_t> namespaces() {
  std::vector<pid_t> pids;
  std::set<std::string> seen;
  for (const pid_t pid : all_processes()) {
    std::error_code gone;
    const auto ns = fs::read_symlink(fmt("/proc/{}/ns/mnt", pid), gone);
    if (!gone && seen.insert(ns.string()).second) pids.push_back(pid);
  }
  return pids;
}

void find_mounts(const Nodes& nodes, std::vector<std::string>& found) {
  std::error_code none;
  const auto own = fs::read_symlink("/proc/self/ns/mnt", none);
  for (const pid_t pid : namespaces()) {
    const std::unique_ptr<libmnt_table, decltype(&mnt_unref_table)> table(
        mnt_new_table(), &mnt_unref_table);
    const std::string path = fmt("/proc/{}/mountinfo", pid);
    if (!table || mnt_table_parse_file(table.get(), path.c_str()) != 0)
      continue;
    const bool here =
        fs::read_symlink(fmt("/proc/{}/ns/mnt", pid), none) == own;
    const std::unique_ptr<libmnt_iter, decltype(&mnt_free_iter)> at(
        mnt_new_iter(MNT_ITER_FORWARD), &mnt_free_iter);
    libmnt_fs* entry = nullptr;
    while (at && mnt_table_next_fs(table.get(), at.get(), &entry) == 0) {
      const char* source = mnt_fs_get_source(entry);
      const char* target = mnt_fs_get_target(entry);
      // btrfs and others have a number of their own there.
      if (!nodes.contains(mnt_fs_get_devno(entry)) &&
          !(source && is_node(nodes, source)))
        continue;
      const std::string where = target ? target : "?";
      const std::string text = here ? fmt("mounted at {}", where)
                                    : fmt("mounted at {} in the mounts of {}",
                                          where, process_name(pid));
      if (std::ranges::find(found, text) == found.end()) found.push_back(text);
    }
  }
}

void find_holders(const Nodes& nodes, std::vector<std::string>& found) {
  for (const auto& [number, name] : nodes) {
    std::error_code end;
    fs::directory_iterator it(fmt("/sys/class/block/{}/holders", name), end);
    for (; !end && it != fs::directory_iterator(); it.increment(end))
      found.push_back("held by " + it->path().filename().string());
  }
  std::error_code end;
  fs::directory_iterator it("/sys/block", end);
  for (; !end && it != fs::directory_iterator(); it.increment(end)) {
    std::string file =
        read_text((it->path() / "loop/backing_file").string()).value_or("");
    while (file.ends_with('\n')) file.pop_back();
    if (is_node(nodes, file))
      found.push_back("behind " + it->path().filename().string());
  }
  std::istringstream swaps(read_text("/proc/swaps").value_or(""));
  for (std::string line; std::getline(swaps, line);)
    if (is_node(nodes, line.substr(0, line.find_first_of(" \t"))))
      found.push_back("used as swap");
}

// Of other devices, as far as our states tell: the kernel itself has it open.
void find_programs(Control& control, const Nodes& nodes,
                   std::vector<std::string>& found) {
  const auto is_ours = [&](const std::string& file) {
    struct stat st;
    return ::stat(file.c_str(), &st) == 0 && S_ISBLK(st.st_mode) &&
           nodes.contains(st.st_rdev);
  };
  const StateStore states = StateStore::open_existing();
  for (const uint32_t dev_id : states.ids()) {
    const auto state = states.load(dev_id);
    if (!state || !state->attached ||
        std::ranges::none_of(state->attached->files, is_ours))
      continue;
    // It may have been replaced or detached without a note.
    const auto info = control.bpf_info(dev_id);
    if (info && info->prog_id == state->attached->prog_id)
      found.push_back(fmt("a file of the program of {}", device_name(dev_id)));
  }
}

void find_openers(const Nodes& nodes, const std::string& proc,
                  std::vector<std::string>& found) {
  for (const pid_t pid : all_processes(proc)) {
    if (pid == ::getpid()) continue;
    const auto open = open_nodes(pid, NodeKind::block, proc);
    if (std::ranges::any_of(
            open, [&](dev_t number) { return nodes.contains(number); }))
      found.push_back("open in " + process_name(pid, proc));
  }
}

// Of one look: EBUSY if somebody has it.
Result<void> stop_unless_open(Control& control,
                              const ublksrv_ctrl_dev_info& info,
                              const ControlTick& tick) {
  if (info.flags & UBLK_F_SAFE_STOP_DEV)
    return control.stop_unused(info.dev_id, tick);
  const std::string name = device_name(info.dev_id);
  if (!users_of(info.dev_id).empty()) return fail_sys(EBUSY, "{}", name);
  // Not to be taken for an opener by the next look at it.
  const auto dev_dir = UniqueFd::open("/dev", O_PATH | O_DIRECTORY);
  if (dev_dir && is_claimed(dev_dir->get(), info.dev_id))
    return fail_sys(EBUSY, "{}", name);
  return control.stop(info.dev_id, tick);
}

}  // namespace

std::string BlockUsers::text() const {
  std::string text;
  for (const auto* list : {&lasting, &openers})
    for (const std::string& user : *list)
      text += (text.empty() ? "" : ", ") + user;
  return text;
}

BlockUsers users_of(uint32_t dev_id) {
  const Nodes nodes = nodes_of(dev_id);
  BlockUsers users;
  if (nodes.empty()) return users;
  find_mounts(nodes, users.lasting);
  find_holders(nodes, users.lasting);
  find_openers(nodes, "/proc", users.openers);
  return users;
}

bool is_claimed(int dev_dir, uint32_t dev_id) {
  const std::string name = fmt("ublkb{}", dev_id);
  const pid_t pid = ::fork();
  if (pid < 0) return true;
  if (pid == 0) {
    // It may be left behind, and must hold nothing then.
    ::dup2(dev_dir, 0);
    ::close_range(1, ~0U, 0);
    const int fd = ::openat(0, name.c_str(), O_RDONLY | O_EXCL);
    ::_exit(fd < 0 && errno == EBUSY ? 1 : 0);
  }
  const UniqueFd pidfd = pidfd_of(pid);
  int status = 0;
  if (!wait_gone(pidfd, kLook)) {
    ::kill(pid, SIGKILL);
    return true;
  }
  ::waitpid(pid, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

bool is_open_below(int dev_dir, int proc_dir, uint32_t dev_id) {
  constexpr int kPartitions = 16;
  Nodes nodes;
  for (int part = 0; part <= kPartitions; part++) {
    const std::string name =
        part ? fmt("ublkb{}p{}", dev_id, part) : fmt("ublkb{}", dev_id);
    struct stat st;
    if (::fstatat(dev_dir, name.c_str(), &st, 0) == 0 && S_ISBLK(st.st_mode))
      nodes.emplace(st.st_rdev, name);
  }
  if (::fchdir(proc_dir) != 0) return true;
  std::vector<std::string> openers;
  find_openers(nodes, ".", openers);
  if (::chdir("/") != 0) return true;
  return !openers.empty();
}

Error in_use(uint32_t dev_id, const BlockUsers& users, std::string hint) {
  const std::string who =
      users.empty() ? "open, in the kernel or by a process that cannot be seen"
                    : users.text();
  return Error::plain(EBUSY, fmt("{}: is in use: {}", device_name(dev_id), who))
      .hint(std::move(hint));
}

Result<void> attach_if_unused(Control& control, uint32_t dev_id,
                              const ublk_bpf_attach& attach,
                              const std::function<bool()>& in_use) {
  const auto until = steady_clock::now() + kLook;
  for (;;) {
    auto attached = control.attach_bpf(dev_id, attach);
    if (attached || attached.error().code() != ETXTBSY) return attached;
    if ((in_use && in_use()) || steady_clock::now() > until) return attached;
    std::this_thread::sleep_for(kScanPeriod);
  }
}

Result<void> stop_if_unused(Control& control, const ublksrv_ctrl_dev_info& info,
                            const ControlTick& tick, const std::string& hint) {
  const auto until = steady_clock::now() + kLook;
  for (;;) {
    auto stopped = stop_unless_open(control, info, tick);
    if (stopped || stopped.error().code() != EBUSY) return stopped;
    BlockUsers users = users_of(info.dev_id);
    find_programs(control, nodes_of(info.dev_id), users.lasting);
    if (!users.lasting.empty() || steady_clock::now() > until)
      return std::unexpected(in_use(info.dev_id, users, hint));
    std::this_thread::sleep_for(kScanPeriod);
  }
}

}  // namespace ublk
