// SPDX-License-Identifier: MIT
//
// up: from a configuration, or from what a crash has left, to a device that is
// served and has its program.

#include <cerrno>
#include <optional>

#include "cli/boot_commands.h"
#include "cli/config.h"
#include "cli/daemon.h"
#include "cli/json.h"
#include "cli/output.h"
#include "cli/service_manager.h"
#include "device/find.h"
#include "device/lifecycle.h"
#include "device/server_process.h"

namespace ublk::cli {

namespace {

enum class Did { nothing, added, recovered, taken_over };

const char* name_of(Did did) {
  switch (did) {
    case Did::added:
      return "added";
    case Did::recovered:
      return "recovered";
    case Did::taken_over:
      return "taken over";
    default:
      return "was up";
  }
}

struct Up {
  std::string name;
  uint32_t dev_id = 0;
  Did did = Did::nothing;
  bool attached = false;  // the program, just now
  pid_t server = -1;
};

// What is to be done to have a server. No driver is open while one is started:
// that would be the server's too.
struct Plan {
  Did to_do = Did::added;
  uint32_t dev_id = 0;
  bool remove_first = false;  // it is dead
};

Error another_file(const Config& config, uint32_t dev_id) {
  return Error::plain(
             ESTALE,
             fmt("{}: serves other files than the configuration of {} says",
                 device_name(dev_id), config.name))
      .hint(fmt("ublk-bpf down {}, then up, changes them", config.name));
}

// A service takes over a device that is served outside of it, so that its
// process is one of the service's; if that can be without failing I/O.
bool is_adopted(const ublksrv_ctrl_dev_info& info) {
  return has_service_manager() && info.flags & UBLK_F_USER_RECOVERY &&
         !(info.flags & UBLK_F_USER_RECOVERY_FAIL_IO) && check_quiesce(info);
}

Result<Plan> make_plan(const Options& options, const Config& config) {
  const StateStore states = StateStore::open_existing();
  const auto dev_id = find_name(states, config.name);
  if (!dev_id) return Plan{};
  auto control = TRY(Control::open(options.control()));
  const auto info = TRY(control.info(*dev_id));
  if (const auto state = states.load(*dev_id);
      state && state->target.files != config.add.target.files)
    warn(another_file(config, *dev_id));
  Plan plan{.to_do = Did::nothing, .dev_id = *dev_id};
  const bool recoverable = info.flags & UBLK_F_USER_RECOVERY;
  if (info.state == UBLK_S_DEV_DEAD) {
    plan.remove_first = true;
    plan.to_do = Did::added;
  } else if (info.state != UBLK_S_DEV_LIVE || !ServerProcess::find(info)) {
    plan.to_do = recoverable ? Did::recovered : Did::nothing;
  } else if (options.boot.takeover || is_adopted(info)) {
    plan.to_do = Did::taken_over;
  }
  return plan;
}

Result<uint32_t> add_it(const Options& options, const Config& config) {
  const auto live = TRY(start_server(options, [&](const ServeHooks& hooks) {
    return serve_new({config.add}, hooks);
  }));
  return live.front();
}

Result<void> succeed(const Options& options, uint32_t dev_id, Succession how) {
  // A service has its own device alone.
  const RecoverRequest request{.dev_id = dev_id,
                               .how = how,
                               .with_others = !has_service_manager(),
                               .changed_file = false};
  TRY(start_server(options, [&](const ServeHooks& hooks) {
    return serve_recovered(request, hooks);
  }));
  return {};
}

// A takeover that fails half-way leaves a device that waits for a server.
Result<void> take_over(const Options& options, uint32_t dev_id) {
  auto done = succeed(options, dev_id, Succession::of_a_live_one);
  if (done) return done;
  bool waits = false;
  {
    auto control = TRY(Control::open(options.control()));
    const auto info = control.info(dev_id);
    waits = info && (info->state == UBLK_S_DEV_QUIESCED ||
                     info->state == UBLK_S_DEV_FAIL_IO);
  }
  if (!waits) return done;
  warn(done.error());
  return succeed(options, dev_id, Succession::of_a_dead_one);
}

Result<void> carry_out(const Options& options, const Config& config,
                       const Plan& plan, Up& up) {
  if (plan.remove_first) {
    auto control = TRY(Control::open(options.control()));
    TRY(remove_device(control, StateStore::open_existing(), plan.dev_id));
  }
  up.dev_id = plan.dev_id;
  switch (plan.to_do) {
    case Did::added:
      up.dev_id = TRY(add_it(options, config));
      break;
    case Did::recovered:
      TRY(succeed(options, plan.dev_id, Succession::of_a_dead_one));
      break;
    case Did::taken_over:
      TRY(take_over(options, plan.dev_id));
      break;
    default:
      break;
  }
  up.did = plan.to_do;
  return {};
}

// Its program, unless it has one.
Result<void> attach_it(Control& control, const StateStore& states,
                       const Config& config, Up& up) {
  if (!config.attach) return {};
  const auto info = control.bpf_info(up.dev_id);
  if (info && info->prog_id) return {};
  AttachRequest request = *config.attach;
  request.dev_id = up.dev_id;
  auto took = attach_program(control, states, request);
  if (took) {
    up.attached = true;
    return {};
  }
  // Without its program it may be another disk than it is to be.
  if (up.did == Did::added)
    if (auto removed = remove_device(control, states, up.dev_id); !removed)
      warn(removed.error());
  return std::unexpected(std::move(took).error());
}

Result<Up> bring_up(const Options& options, const std::string& name) {
  const Config config = TRY(read_config(options.boot.config_dir, name));
  const Plan plan = TRY_IN(name, make_plan(options, config));
  Up up{.name = name};
  TRY_IN(name, carry_out(options, config, plan, up));
  auto control = TRY(Control::open(options.control()));
  const StateStore states = StateStore::open_existing();
  TRY_IN(name, attach_it(control, states, config, up));
  const Device device = TRY(describe(control, states, up.dev_id));
  if (device.info.state != UBLK_S_DEV_LIVE || !device.server)
    return std::unexpected(
        Error::plain(EIO,
                     fmt("{}: {}: has no server", name, device_name(up.dev_id)))
            .hint(fmt("ublk-bpf info -n {} says what it is", up.dev_id)));
  up.server = device.server->pid;
  TRY(tell_ready(
      up.server,
      fmt("{} is {}{}", name, device_name(up.dev_id),
          device.bpf && device.bpf->prog_id ? ", with a program" : "")));
  return up;
}

struct Outcome {
  std::vector<Up> up;
  std::vector<std::pair<std::string, Error>> failed;
};

// One whose file is another one's disk comes after that, whatever they are
// called: what lacks a file is tried again when another one is up.
Outcome bring_up_all(const Options& options, std::vector<std::string> names) {
  Outcome outcome;
  std::vector<std::pair<std::string, Error>> waiting;
  for (bool progress = true; progress && !names.empty();) {
    const size_t before = outcome.up.size();
    waiting.clear();
    for (const std::string& name : names) {
      auto one = bring_up(options, name);
      if (one) {
        outcome.up.push_back(std::move(*one));
        continue;
      }
      auto& failed = one.error().code() == ENOENT ? waiting : outcome.failed;
      failed.emplace_back(name, std::move(one).error());
    }
    names.clear();
    for (const auto& [name, error] : waiting) names.push_back(name);
    progress = outcome.up.size() > before;
  }
  for (auto& failed : waiting) outcome.failed.push_back(std::move(failed));
  return outcome;
}

void print(const Outcome& outcome, bool as_json) {
  json up = json::array();
  json failed = json::array();
  for (const Up& one : outcome.up)
    up.push_back({{"name", one.name},
                  {"dev_id", one.dev_id},
                  {"did", name_of(one.did)},
                  {"attached", one.attached},
                  {"pid", one.server}});
  for (const auto& [name, error] : outcome.failed)
    failed.push_back(
        {{"name", name}, {"error", json::parse(error_json(error))["error"]}});
  if (as_json) {
    say(dump({{"up", up}, {"failed", failed}}));
    return;
  }
  for (const Up& one : outcome.up)
    say(fmt("{}: {}: {}{}, served by process {}", one.name,
            block_path(one.dev_id), name_of(one.did),
            one.attached ? ", program attached" : "", one.server));
}

}  // namespace

void define_up(Arguments& command, Options& options) {
  command.texts("name", options.boot.names, "NAME", "which devices");
  command.flag("--all", options.all, "all that have a configuration");
  command.flag("--takeover", options.boot.takeover,
               "give those that are served a new server, of this version");
  command.text("--config-dir", options.boot.config_dir, "DIR",
               "where NAME.json is");
  command.footer(
      "Brings a device to what /etc/ublk-bpf/NAME.json says: adds it, or "
      "recovers it if its server has died, and attaches its program. One that "
      "is up already is left as it is. If one fails it is said, the others "
      "come up, and the exit status is 1.\n"
      "The keys of the file are the long options of add, without --, and "
      "\"program\", an object with those of attach, its \"object\", and "
      "\"set\", an object of knobs. A file has its absolute path. Unless "
      "it says \"recovery\": false the device outlives its server.\n"
      "{\"type\": \"loop\", \"file\": \"/srv/disk.img\", \"queues\": 2,\n"
      "\"program\": {\"object\": \"loop\"}}\n"
      "A service manager that waits for it (Type=notify) hears when the device "
      "is live and has its program, and which process serves it.\n"
      "Examples:\n"
      "  ublk-bpf up vm1\n"
      "  ublk-bpf up --all\n"
      "  ublk-bpf up --all --takeover");
}

int run_up(const Options& options) {
  std::vector<std::string> names = options.boot.names;
  if (options.all != names.empty())
    return report(Error::plain(EINVAL, "up: needs either names or --all"),
                  options.json, kUsedWrongly);
  if (options.all) {
    auto all = config_names(options.boot.config_dir);
    if (!all) return report(all.error(), options.json);
    names = std::move(*all);
  }
  const Outcome outcome = bring_up_all(options, names);
  print(outcome, options.json);
  for (const auto& [name, error] : outcome.failed) report(error, false);
  return outcome.failed.empty() ? kDone : kFailed;
}

}  // namespace ublk::cli
