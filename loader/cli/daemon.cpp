// SPDX-License-Identifier: MIT
#include "cli/daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

#include "cli/json.h"
#include "cli/output.h"
#include "cli/system_log.h"
#include "device/gc.h"
#include "sys/process.h"
#include "sys/unique_fd.h"

namespace ublk::cli {

namespace {

void print_live(const std::vector<Device>& devices, const Options& options) {
  if (options.add.show && !options.json) {
    for (const Device& device : devices) say(block_path(device.info.dev_id));
  } else if (options.json) {
    say(devices.size() == 1 ? device_json(devices.front())
                            : devices_json(devices));
  } else {
    for (const Device& device : devices)
      say(fmt("{} daemon pid {}", device_line(device),
              device.info.ublksrv_pid));
  }
  std::fflush(stdout);
}

// In the starter, which sees more of the server than the server itself.
int print_live(const std::vector<uint32_t>& dev_ids, const Options& options) {
  const bool as_json = options.json;
  auto control = Control::open(options.control());
  if (!control) return report(control.error(), as_json);
  std::vector<Device> devices;
  Servers servers;
  for (const uint32_t dev_id : dev_ids) {
    auto device =
        describe(*control, StateStore::open_existing(), dev_id, servers);
    if (!device) return report(device.error(), as_json);
    devices.push_back(std::move(*device));
  }
  print_live(devices, options);
  return kDone;
}

// What the daemon tells its starter: one JSON object per line. Any thread may
// tell something.
class Messenger {
 public:
  Messenger(UniqueFd pipe, SystemLog log)
      : pipe_(std::move(pipe)), log_(std::move(log)) {}

  // False: nobody is listening.
  bool live(const std::vector<Device>& devices) {
    const std::lock_guard lock(mutex_);
    name(devices);
    std::vector<uint32_t> dev_ids;
    for (const Device& device : devices) dev_ids.push_back(device.info.dev_id);
    send({{"live", dev_ids}});
    const bool told = pipe_.valid();
    pipe_.reset();
    return told;
  }
  // The starter is told why, and listens no more.
  void refuse(const Error& error, const std::vector<Device>& devices) {
    const std::lock_guard lock(mutex_);
    name(devices);
    tell_locked("error", error);
    pipe_.reset();
  }
  // To the starter, or once it has gone to the system's log.
  void tell(const char* kind, const Error& error) {
    const std::lock_guard lock(mutex_);
    tell_locked(kind, error);
  }

 private:
  void name(const std::vector<Device>& devices) {
    std::map<uint32_t, std::string> names;
    for (const Device& device : devices)
      names[device.info.dev_id] = device.state ? device.state->name : "";
    log_.set_names(std::move(names));
  }
  void tell_locked(const char* kind, const Error& error) {
    if (pipe_.valid())
      send({{kind,
             {{"code", error.code()},
              {"message", error.message()},
              {"hint", error.hint_text()},
              {"detail", error.detail_text()}}}});
    else
      log_.write(error);
  }
  void send(const json& message) {
    const std::string text = dump(message) + "\n";
    // The starter may have gone: then there is nobody to tell.
    if (::write(pipe_.get(), text.data(), text.size()) < 0) pipe_.reset();
  }

  std::mutex mutex_;
  UniqueFd pipe_;
  SystemLog log_;
};

Error error_from(const json& from) {
  return Error::plain(from.at("code").get<int>(),
                      from.at("message").get<std::string>())
      .hint(from.at("hint").get<std::string>())
      .detail(from.at("detail").get<std::string>());
}

void block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  // The end of a login session sends it after SIGTERM. What is in use is not
  // pulled for that.
  ::signal(SIGHUP, SIG_IGN);
}

// Cuts the process off from its starter's terminal, directory and files. The
// pipe becomes descriptor 3.
UniqueFd settle_as_daemon(UniqueFd pipe) {
  ::setsid();
  ::umask(022);
  // The root is there in any case.
  (void)!::chdir("/");
  const UniqueFd null(::open("/dev/null", O_RDWR));
  for (int fd : {0, 1, 2})
    if (null.valid()) ::dup2(null.get(), fd);
  int moved = ::fcntl(pipe.get(), F_DUPFD_CLOEXEC, 3);
  if (moved != 3) {
    ::dup3(pipe.get(), 3, O_CLOEXEC);
    moved = 3;
  }
  ::close_range(4, ~0U, 0);
  return UniqueFd(moved);
}

// The daemon was killed, and can clear nothing away any more.
Error died(pid_t server, const std::vector<uint32_t>& before,
           const Options& options) {
  const auto error = [](const std::string& more) {
    return Error::plain(
        ECHILD, "the server has died before the device was live" + more);
  };
  auto control = Control::open(options.control());
  if (!control) return error("");
  const auto cleared =
      clear_after(*control, StateStore::open_existing(), server, before);
  if (!cleared) return error("").hint("ublk-bpf gc: " + cleared.error().line());
  return error(cleared->empty() ? "" : "; what there was of it is deleted");
}

// Reads the daemon's messages until it is live, has failed, or is dead.
Result<std::vector<uint32_t>> await(int pipe,
                                    const std::function<Error()>& died) {
  const UniqueFd fd(pipe);
  FILE* in = ::fdopen(::dup(fd.get()), "r");
  if (!in) return fail_sys(errno, "listening to the server");
  char* line = nullptr;
  size_t size = 0;
  std::optional<Result<std::vector<uint32_t>>> outcome;
  while (!outcome && ::getline(&line, &size, in) > 0) {
    const json message = json::parse(line, nullptr, false);
    if (message.contains("live"))
      outcome = message["live"].get<std::vector<uint32_t>>();
    else if (message.contains("error"))
      outcome = std::unexpected(error_from(message["error"]));
    else if (message.contains("warning"))
      warn(error_from(message["warning"]));
  }
  ::free(line);
  ::fclose(in);
  if (!outcome) return std::unexpected(died());
  return std::move(*outcome);
}

int serve_in_background(
    UniqueFd starter, const Options& options,
    const std::function<Result<void>(const ServeHooks&)>& serve) {
  block_signals();
  UniqueFd pipe = settle_as_daemon(std::move(starter));
  const ControlOptions control{.deadline = options.control().deadline,
                               .keep = pipe.get()};
  Messenger messenger(std::move(pipe), SystemLog::connect());
  const auto done = serve(
      {.control = control,
       .live =
           [&](const std::vector<Device>& devices) {
             return messenger.live(devices);
           },
       .trouble = [&](const Error& error) { messenger.tell("warning", error); },
       .refused =
           [&](const Error& error, const std::vector<Device>& devices) {
             messenger.refuse(error, devices);
           }});
  if (!done) messenger.tell("error", done.error());
  return done ? kDone : kFailed;
}

int serve_in_foreground(
    const Options& options,
    const std::function<Result<void>(const ServeHooks&)>& serve) {
  block_signals();
  const auto done =
      serve({.control = options.control(),
             .live =
                 [&](const std::vector<Device>& devices) {
                   print_live(devices, options);
                   return true;
                 },
             .trouble = [](const Error& error) { warn(error); },
             .refused =
                 [&](const Error& error, const std::vector<Device>&) {
                   report(error, options.json);
                 }});
  return done ? static_cast<int>(kDone) : report(done.error(), options.json);
}

}  // namespace

std::string for_server(const std::string& path) {
  std::error_code failed;
  const auto full = std::filesystem::absolute(path, failed);
  return path.empty() || failed ? path : full.string();
}

int run_server(const Options& options, bool foreground,
               const std::function<Result<void>(const ServeHooks&)>& serve,
               Printing printing) {
  if (foreground) return serve_in_foreground(options, serve);
  const auto live = start_server(options, serve);
  if (!live) return report(live.error(), options.json);
  return printing == Printing::none ? static_cast<int>(kDone)
                                    : print_live(*live, options);
}

Result<std::vector<uint32_t>> start_server(
    const Options& options,
    const std::function<Result<void>(const ServeHooks&)>& serve) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    return fail_sys(errno, "pipe to the server");
  const std::vector<uint32_t> before = device_ids();
  // What is still to be printed is the starter's.
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child < 0) {
    ::close(ends[0]);
    ::close(ends[1]);
    return fail_sys(errno, "fork of the server");
  }
  if (child > 0) {
    ::close(ends[1]);
    return await(ends[0], [&] { return died(child, before, options); });
  }
  ::exit(serve_in_background(UniqueFd(ends[1]), options, serve));
}

}  // namespace ublk::cli
