// SPDX-License-Identifier: MIT
#include <cerrno>

#include "cli/app.h"
#include "cli/output.h"
#include "server/target.h"

namespace ublk::cli {

namespace {

std::string target_text(const TargetOps& ops) {
  return fmt(
      "ublk-bpf add -t {}: {}\n\n{}\n\nublk-bpf help add has all the "
      "options.\n",
      ops.name, ops.summary, ops.help);
}

}  // namespace

Result<std::string> help_on(const std::string& topic) {
  Options options;
  const auto app = make_app(options);
  if (topic.empty()) return app->help();
  for (const CLI::App* sub : std::as_const(*app).get_subcommands({}))
    if (sub->get_name() == topic) return app->get_subcommand(topic)->help();
  std::string targets;
  for (const TargetOps* ops : all_targets()) {
    if (ops->name == topic) return target_text(*ops);
    targets += (targets.empty() ? "" : ", ") + std::string(ops->name);
  }
  return std::unexpected(
      Error::plain(EINVAL, fmt("help: '{}' is no command and no target", topic))
          .hint("ublk-bpf help lists the commands; targets: " + targets));
}

void define_help(Arguments& command, Options& options) {
  command.text("topic", options.topic, "TOPIC",
               "a command, or a target of add; none: all commands");
  // Other ublk tools' way to ask for a target's.
  command.ignored("-t,--type", options.topic);
  command.footer(
      "Examples:\n"
      "  ublk-bpf help add\n"
      "  ublk-bpf help loop");
}

int run_help(const Options& options) {
  const auto text = help_on(options.topic);
  if (!text) return report(text.error(), options.json, kUsedWrongly);
  if (options.json)
    say(help_json(options.topic, *text));
  else
    say(text->substr(0, text->find_last_not_of('\n') + 1));
  return kDone;
}

}  // namespace ublk::cli
