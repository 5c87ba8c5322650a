// SPDX-License-Identifier: MIT
#include "cli/command_line.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>

#include "cli/app.h"
#include "cli/author_commands.h"
#include "cli/help_formatter.h"

namespace ublk::cli {

void Arguments::text(const char* names, std::string& value, const char* type,
                     const std::string& help, bool required) {
  auto* option = app_.add_option(names, value, help)
                     ->type_name(type)
                     ->capture_default_str();
  if (required) option->required();
}

void Arguments::texts(const char* names, std::vector<std::string>& values,
                      const char* type, const std::string& help) {
  // An option takes one value each time: or else it takes what comes after it,
  // an object too. Of what has a place, there may be several.
  app_.add_option(names, values, help)
      ->type_name(type)
      ->expected(1)
      ->allow_extra_args(names[0] != '-')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void Arguments::number(const char* names, uint32_t& value, uint32_t least,
                       uint32_t most, const std::string& help) {
  app_.add_option(names, value, help)
      ->type_name("N")
      ->check(CLI::Range(least, most))
      ->capture_default_str();
}

void Arguments::seconds(const char* names, uint32_t& value, uint32_t least,
                        const std::string& help) {
  constexpr uint32_t kDay = 86400;
  app_.add_option(names, value, help)
      ->type_name("SECONDS")
      ->check(CLI::Range(least, kDay))
      ->capture_default_str();
}

void Arguments::flag(const char* names, bool& value, const std::string& help) {
  app_.add_flag(names, value, help);
}

void Arguments::toggle(const char* names, bool& value,
                       const std::string& help) {
  // Not by the type: a bare option would be taken for "false".
  const auto take = [&value](const CLI::results_t& given) {
    const std::string text = given.empty() ? "" : given.front();
    value = text != "0";
    return text == "0" || text == "1" || text.empty() || text == "{}" ||
           text == "true";
  };
  app_.add_option(names, take, help)->expected(0, 1)->type_name("[0|1]");
}

void Arguments::ignored(const char* names, std::string& value) {
  app_.add_option(names, value)->group("");
}

namespace {

constexpr int64_t kMostDevId = (int64_t{1} << 20) - 1;

constexpr const char* kWhichDevice =
    "which device: N of /dev/ublkbN, its name, its path, or a file that no "
    "other device serves";

// A number, or text to look for.
void take_device(const std::string& given, int64_t& dev_id,
                 std::string& device) {
  dev_id = -1;
  device.clear();
  if (given.empty()) throw CLI::ValidationError("--dev", "is empty");
  const bool number =
      std::ranges::all_of(given, [](char c) { return c >= '0' && c <= '9'; });
  if (!number)
    device = given;
  else if (!CLI::detail::lexical_cast(given, dev_id) || dev_id > kMostDevId)
    throw CLI::ValidationError(
        "--dev",
        fmt("{} is not a number of a device, 0 to {}", given, kMostDevId));
}

}  // namespace

void Arguments::device(int64_t& dev_id, bool required) {
  const auto take = [&dev_id, &device = device_](const std::string& given) {
    take_device(given, dev_id, device);
  };
  auto* option =
      app_.add_option_function<std::string>("-n,--dev", take, kWhichDevice)
          ->type_name("DEVICE");
  if (required) option->required();
}

void Arguments::device_at_its_place(int64_t& dev_id, bool& given) {
  const auto take = [&dev_id, &given,
                     &device = device_](const std::string& text) {
    take_device(text, dev_id, device);
    given = true;
  };
  app_.add_option_function<std::string>("device", take, kWhichDevice)
      ->type_name("DEVICE");
}

void Arguments::new_device(int64_t& dev_id) {
  app_.add_option("-n,--dev", dev_id, "N of /dev/ublkbN")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, kMostDevId));
}

void Arguments::changed_file(bool& value) {
  flag("--changed-file", value,
       "even if the file that has the name is not the one that the device was "
       "added with");
}

void Arguments::footer(const char* text) { app_.footer(text); }

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"add", nullptr, "add a block device and serve it", define_add, run_add},
      {"attach", nullptr, "attach a BPF program to a device", define_attach,
       run_attach},
      {"detach", nullptr, "take the BPF program off a device", define_detach,
       run_detach},
      {"drain", nullptr, "wait for I/O that the BPF program has begun",
       define_drain, run_drain},
      {"stop", nullptr, "stop a device, which can then be deleted", define_stop,
       run_stop},
      {"del", nullptr, "stop and delete a device, or all", define_del, run_del},
      {"recover", nullptr, "serve a device again whose server has died",
       define_recover, run_recover},
      {"takeover", nullptr, "give a live device a new server", define_takeover,
       run_takeover},
      {"quiesce", nullptr, "take a device from its server, for recover",
       define_quiesce, run_quiesce},
      {"resize", "update_size", "change the size of a device", define_resize,
       run_resize},
      {"set-affinity", "set_affinity", "choose the CPUs that serve a queue",
       define_set_affinity, run_set_affinity},
      {"list", nullptr, "show the devices", define_list, run_list},
      {"info", nullptr, "show all about a device", define_info, run_info},
      {"stat", nullptr, "show what devices do, and how long requests take",
       define_stat, run_stat},
      {"metrics", nullptr, "print what is counted, for a monitoring system",
       define_metrics, run_metrics},
      {"up", nullptr, "bring devices to what their configurations say",
       define_up, run_up},
      {"down", nullptr, "delete devices by their names", define_down, run_down},
      {"config check", nullptr, "look for mistakes in configurations",
       define_config_check, run_config_check, false},
      {"own", nullptr, "give an unprivileged device's nodes to its owner",
       define_own, run_own},
      {"gc", nullptr, "clear what crashes have left", define_gc, run_gc},
      {"features", nullptr, "show the features of the driver", define_features,
       run_features},
      {"snapshot", nullptr,
       "seal what a clone has now; it goes on with a new "
       "layer",
       define_snapshot, run_snapshot},
      {"fork", nullptr, "add a second device that has what a clone has now",
       define_fork, run_fork},
      {"reset", nullptr, "take a clone back to its last snapshot", define_reset,
       run_reset},
      {"flatten", nullptr, "make a clone's layer independent of those below it",
       define_flatten, run_flatten},
      {"diff", nullptr, "show what has changed on a clone since a snapshot",
       define_diff, run_diff, false},
      {"layer create", nullptr, "make a layer file, empty, for a clone",
       define_layer_create, run_layer_create, false},
      {"layer info", nullptr, "show what a layer file is and what is below it",
       define_layer_info, run_layer_info, false},
      {"layer check", nullptr, "look for damage in a layer file",
       define_layer_check, run_layer_check, false},
      {"layer list", nullptr, "show which layer has which part of the disk",
       define_layer_list, run_layer_list, false},
      {"layer diff", nullptr, "show what has changed since a layer below",
       define_layer_diff, run_layer_diff, false},
      {"track mark", nullptr, "begin a new period of what is written",
       define_track_mark, run_track_mark},
      {"track list", nullptr, "show what was written since a mark",
       define_track_list, run_track_list, false},
      {"probe", nullptr, "show what this kernel offers", define_probe,
       run_probe, false},
      {"new", nullptr, "begin a program of your own", define_new, run_new,
       false},
      {"check", nullptr, "verify a program without a device", define_check,
       run_check, false},
      {"bench", nullptr, "measure what an I/O costs, and where the time goes",
       define_bench, run_bench, false},
      {"help", nullptr, "explain a command or a target", define_help, run_help,
       false},
  };
  return all;
}

namespace {

struct Group {
  const char* name;
  const char* summary;
};
constexpr Group kGroups[] = {
    {"layer", "make and look at layer files"},
    {"track", "mark, and show what was written since: for backups"},
    {"config", "look at configurations of devices"}};

// Under which heading of the help a command, or a group of commands, stands.
constexpr const char* kHeading = "Devices";
constexpr std::pair<const char*, std::string_view> kHeadings[] = {
    {"Programs", " attach detach drain new check "},
    {"Servers", " recover takeover quiesce set-affinity "},
    {"At boot", " up down config "},
    {"Watching", " list info stat metrics bench "},
    {"Clones", " snapshot fork reset flatten diff layer "},
    {"Changed blocks", " track "},
    {"The host", " probe features gc own help "},
};

const char* heading_of(const std::string& name) {
  for (const auto& [heading, names] : kHeadings)
    if (names.contains(" " + name + " ")) return heading;
  return kHeading;
}

// "layer create" is a command of the group "layer".
CLI::App* add_command(CLI::App& app, const Command& command) {
  const std::string name = command.name;
  const size_t space = name.find(' ');
  if (space == std::string::npos) {
    CLI::App* sub = app.add_subcommand(name, command.summary);
    sub->group(heading_of(name));
    return sub;
  }
  const std::string group = name.substr(0, space);
  const auto there = app.get_subcommands(
      [&](const CLI::App* sub) { return sub->get_name() == group; });
  CLI::App* parent = there.empty() ? nullptr : there.front();
  if (!parent) {
    const auto* known = std::ranges::find(kGroups, group, &Group::name);
    parent = app.add_subcommand(group, known->summary);
    parent->require_subcommand(1);
    parent->group(heading_of(group));
  }
  return parent->add_subcommand(name.substr(space + 1), command.summary);
}

// Of "layer create" that is "layer".
bool begins_with(const Command& command, std::string_view word) {
  const std::string_view name = command.name;
  return name.substr(0, name.find(' ')) == word ||
         (command.alias && word == command.alias);
}

}  // namespace

std::string command_of(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  if (!parent) return {};
  const std::string before = command_of(*parent);
  return before.empty() ? app.get_name() : before + " " + app.get_name();
}

std::vector<std::string> shown_names(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const auto& name : option.get_snames()) names.push_back("-" + name);
  if (!option.get_lnames().empty())
    names.push_back("--" + option.get_lnames().front());
  return names;
}

std::vector<std::string> other_names(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const auto& name : option.get_lnames())
    if (name != option.get_lnames().front()) names.push_back("--" + name);
  return names;
}

std::string dashed(std::string command) {
  std::ranges::replace(command, ' ', '-');
  return command;
}

std::vector<const CLI::App*> command_apps(const CLI::App& root) {
  std::vector<const CLI::App*> apps;
  for (const CLI::App* sub : root.get_subcommands({})) {
    const auto own = command_apps(*sub);
    if (own.empty()) apps.push_back(sub);
    apps.insert(apps.end(), own.begin(), own.end());
  }
  return apps;
}

std::unique_ptr<CLI::App> make_app(Options& options, std::string_view only) {
  auto app = std::make_unique<CLI::App>(
      "Block devices in user space (ublk), served by BPF programs in "
      "the kernel.");
  app->name("ublk-bpf");
  // Those of the commands take it over.
  app->formatter(std::make_shared<HelpFormatter>());
  app->set_version_flag("--version",
                        std::string("ublk-bpf ") + UBLK_BPF_TOOL_VERSION);
  app->require_subcommand(1);
  app->add_flag("--json", options.json, "print JSON");
  app->footer(
      "Exit status: 0 done, 1 failed, 2 used wrongly.\n"
      "ublk-bpf help COMMAND has the options and examples.");
  for (const Command& command : commands()) {
    if (!only.empty() && !begins_with(command, only)) continue;
    CLI::App* sub = add_command(*app, command);
    if (command.alias) sub->alias(command.alias);
    Arguments arguments(*sub, options.device);
    command.define(arguments, options);
    arguments.flag("--json", options.json, "print JSON");
    if (command.asks_driver)
      arguments.seconds("--deadline", options.deadline, 1,
                        "how long the driver may take over one step");
    sub->callback([&options, &command] { options.command = command.name; });
  }
  return app;
}

namespace {

// The words in the place of the command, if they are none. The parser only says
// that one is required.
std::optional<std::string> unknown_command(int argc, const char* const* argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc && words.size() < 2; i++) {
    const std::string_view word = argv[i];
    if (!word.starts_with('-') || word == "-") words.emplace_back(word);
  }
  if (words.empty()) return std::nullopt;
  std::string name = words[0];
  if (std::ranges::find(kGroups, name, &Group::name) != std::end(kGroups)) {
    if (words.size() < 2) return std::nullopt;
    name += " " + words[1];
  }
  const auto is_it = [&](const Command& command) {
    return name == command.name || (command.alias && name == command.alias);
  };
  if (std::ranges::any_of(commands(), is_it)) return std::nullopt;
  return name;
}

}  // namespace

Parsed parse(int argc, const char* const* argv) {
  Parsed parsed;
  std::string_view only = argc > 1 ? argv[1] : "";
  if (std::ranges::none_of(commands(), [&](const Command& command) {
        return begins_with(command, only);
      }))
    only = {};
  const auto app = make_app(parsed.options, only);
  try {
    app->parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream out, err;
    const int code = app->exit(e, out, err);
    parsed.status = code == 0 ? kDone : kUsedWrongly;
    parsed.text = code == 0 ? out.str() : std::string(e.what());
    if (const auto word = unknown_command(argc, argv); code != 0 && word)
      parsed.text = fmt("'{}': is not a command", *word);
  }
  return parsed;
}

}  // namespace ublk::cli
