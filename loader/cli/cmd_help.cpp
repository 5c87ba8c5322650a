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

// "ublk-bpf layer" of "ublk-bpf layer create"
std::string words_before(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  const std::string group = command_of(*parent);
  return group.empty() ? "ublk-bpf" : "ublk-bpf " + group;
}

}  // namespace

Result<std::string> help_on(const std::string& topic) {
  Options options;
  const auto app = make_app(options);
  if (topic.empty()) return app->help();
  for (const CLI::App* sub : command_apps(*app))
    if (command_of(*sub) == topic || dashed(command_of(*sub)) == topic)
      return sub->help(words_before(*sub));
  // A group of commands.
  for (const CLI::App* sub : std::as_const(*app).get_subcommands({}))
    if (sub->get_name() == topic) return sub->help(words_before(*sub));
  std::string targets;
  for (const TargetOps* ops : all_targets()) {
    if (ops->name == topic) return target_text(*ops);
    targets += (targets.empty() ? "" : ", ") + std::string(ops->name);
  }
  return std::unexpected(
      Error::plain(EINVAL,
                   fmt("help: '{}' is not a command or a target", topic))
          .hint("ublk-bpf help lists the commands; targets: " + targets));
}

void define_help(Arguments& command, Options& options) {
  command.texts("topic", options.topic_words, "TOPIC",
                "a command, or a target of add; none: all commands");
  // Other ublk tools' way to ask for a target's.
  command.ignored("-t,--type", options.topic);
  command.footer(
      "Examples:\n"
      "  ublk-bpf help add\n"
      "  ublk-bpf help layer create\n"
      "  ublk-bpf help loop");
}

int run_help(const Options& options) {
  std::string topic = options.topic;
  for (const std::string& word : options.topic_words)
    topic += (topic.empty() ? "" : " ") + word;
  const auto text = help_on(topic);
  if (!text) return report(text.error(), options.json, kUsedWrongly);
  if (options.json)
    say(help_json(topic, *text));
  else
    say(text->substr(0, text->find_last_not_of('\n') + 1));
  return kDone;
}

}  // namespace ublk::cli
