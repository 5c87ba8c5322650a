// SPDX-License-Identifier: MIT
//
// config check: whether `up` can do what a configuration says.

#include <unistd.h>

#include <cerrno>

#include "cli/boot_commands.h"
#include "cli/config.h"
#include "cli/json.h"
#include "cli/output.h"
#include "device/own_program.h"

namespace ublk::cli {

namespace {

Result<void> check_is_there(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0) return fail_sys(errno, "{}", path);
  return {};
}

Result<void> check(const std::string& dir, const std::string& name) {
  const Config config = TRY(read_config(dir, name));
  const std::string path = config_path(dir, name);
  for (const std::string& file : config.add.target.files)
    TRY_IN(path, check_is_there(file));
  if (!config.attach) return {};
  for (const std::string& file : config.attach->files)
    TRY_IN(path, check_is_there(file));
  const auto object = TRY_IN(path, find_object(config.attach->object));
  TRY_IN(path, check_is_there(object));
  return {};
}

}  // namespace

void define_config_check(Arguments& command, Options& options) {
  command.texts("name", options.boot.names, "NAME",
                "of which devices; none: of all");
  command.text("--config-dir", options.boot.config_dir, "DIR",
               "where NAME.json is");
  command.footer(
      "Reads configurations as up does, looks whether their files are there, "
      "and changes nothing.\n"
      "Examples:\n"
      "  ublk-bpf config check\n"
      "  ublk-bpf config check vm1");
}

int run_config_check(const Options& options) {
  const std::string& dir = options.boot.config_dir;
  std::vector<std::string> names = options.boot.names;
  if (names.empty()) {
    auto all = config_names(dir);
    if (!all) return report(all.error(), options.json);
    names = std::move(*all);
  }
  json list = json::array();
  int status = kDone;
  for (const std::string& name : names) {
    const auto checked = check(dir, name);
    list.push_back(
        {{"name", name},
         {"path", config_path(dir, name)},
         {"error", checked ? json(nullptr) : json(checked.error().line())}});
    if (!checked) {
      status = report(checked.error(), false);
    } else if (!options.json) {
      say(fmt("{}: good", config_path(dir, name)));
    }
  }
  if (options.json) say(dump({{"configurations", list}}));
  return status;
}

}  // namespace ublk::cli
