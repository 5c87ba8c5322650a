// SPDX-License-Identifier: MIT
#include <sstream>

#include "cli/app.h"
#include "cli/reference.h"
#include "server/data_path.h"
#include "server/target.h"

namespace ublk::cli {

namespace {

std::string joined(const std::vector<std::string>& words, const char* by) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : by) + word;
  return text;
}

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const TargetOps* ops : all_targets()) names.emplace_back(ops->name);
  return names;
}

std::vector<std::string> names_of(const CLI::Option& option) {
  auto names = shown_names(option);
  for (auto& name : other_names(option)) names.push_back(std::move(name));
  return names;
}

std::vector<std::string> options_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    if (!option->get_group().empty())
      for (auto& name : shown_names(*option)) names.push_back(std::move(name));
  return names;
}

// What can stand behind it: commands, and groups of them.
std::vector<std::string> names_in(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({}))
    names.push_back(sub->get_name());
  return names;
}

std::vector<const CLI::App*> groups_of(const CLI::App& root) {
  return root.get_subcommands(
      [](const CLI::App* app) { return !app->get_subcommands({}).empty(); });
}

// As topics of help.
std::vector<std::string> topics(const CLI::App& root) {
  std::vector<std::string> names;
  for (const CLI::App* sub : command_apps(root))
    names.push_back(dashed(command_of(*sub)));
  for (const CLI::App* group : groups_of(root))
    names.push_back(group->get_name());
  return names;
}

std::vector<std::string> data_path_names() {
  std::vector<std::string> names = {std::string(kAutoDataPath)};
  for (const DataPath* path : all_data_paths()) names.emplace_back(path->name);
  return names;
}

// A device that has a configuration; or a program of an object.
std::string names_for(const CLI::App& app, const CLI::Option& option) {
  if (option.check_name("--prog")) return "_ublk_bpf_said_of_object program";
  const std::string command = command_of(app);
  const bool is_configured =
      command == "up" || command == "down" || command == "config check";
  return is_configured && !option.nonpositional() ? "_ublk_bpf_configs" : "";
}

// What can stand for a value, by its type: "[0|1]" and "a|b" say it themselves.
// "": nobody can know.
std::string values_of(const CLI::App& root, const CLI::App& app,
                      const CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (type == "NAME") return names_for(app, option);
  if (type == "KNOB=VALUE") return "_ublk_bpf_said_of_object knob =";
  if (type == "PATH")
    return "_ublk_bpf_words '" + joined(data_path_names(), " ") + "'";
  if (type == "DIR") return "_ublk_bpf_dirs";
  if (type == "DEVICE") return "_ublk_bpf_devices";
  if (type == "FILE") return "_ublk_bpf_files";
  if (type == "OBJ") return "_ublk_bpf_objects";
  if (type == "TARGET")
    return "_ublk_bpf_words '" + joined(target_names(), " ") + "'";
  if (type == "TOPIC")
    return "_ublk_bpf_words '" + joined(topics(root), " ") + " " +
           joined(target_names(), " ") + "'";
  if (!type.contains('|')) return {};
  std::string words;
  for (const char c : type)
    if (c != '[' && c != ']') words += c == '|' ? ' ' : c;
  return "_ublk_bpf_words '" + words + "'";
}

constexpr const char* kHead = R"(# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# bash completion for ublk-bpf, made from its own definition of its options.

_ublk_bpf_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }

_ublk_bpf_files() {
	compopt -o filenames 2>/dev/null || : # where it is only tried out
	mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

_ublk_bpf_dirs() {
	compopt -o filenames 2>/dev/null || :
	mapfile -t COMPREPLY < <(compgen -d -- "$cur")
}

# Those of the programs that come with the command.
_ublk_bpf_installed() {
	local dir file
	dir=$(type -P -- "${COMP_WORDS[0]}") && dir=${dir%/*}
	for file in "$dir"/../bpf/*.bpf.o "$dir"/../lib/ublk-bpf/bpf/*.bpf.o; do
		[[ ! -e $file ]] || file=${file##*/} installed+=" ${file%.bpf.o}"
	done
}

_ublk_bpf_objects() {
	local installed=''
	_ublk_bpf_files
	[[ $cur != */* ]] || return 0
	_ublk_bpf_installed
	mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$installed" -- "$cur")
}

# The knobs, or the programs, of the object that the line names: what check says.
_ublk_bpf_said_of_object() {
	local installed='' names='' word before='' object='' what name
	_ublk_bpf_installed
	for word in "${COMP_WORDS[@]:1}"; do
		if [[ $before != --file && ($word == *.o && -f $word || $word && " $installed " == *" $word "*) ]]; then
			object=$word
		fi
		before=$word
	done
	[[ $object ]] || return 0
	while read -r what name _; do
		[[ $what != "$1" || " $names" == *" ${name%:}${2-}" ]] || names+=" ${name%:}${2-}"
	done < <("${COMP_WORDS[0]}" check "$object" 2>/dev/null)
	[[ ! ${2-} ]] || compopt -o nospace 2>/dev/null || :
	_ublk_bpf_words "$names"
}

_ublk_bpf_configs() {
	local dir=/etc/ublk-bpf file names='' i
	for ((i = 1; i < COMP_CWORD; i++)); do
		if [[ ${COMP_WORDS[i]} == --config-dir ]]; then
			dir=${COMP_WORDS[i + 1]}
			[[ $dir != = ]] || dir=${COMP_WORDS[i + 2]-}
		fi
	done
	for file in "$dir"/*.json; do
		[[ ! -e $file ]] || file=${file##*/} names+=" ${file%.json}"
	done
	_ublk_bpf_words "$names"
}

_ublk_bpf_devices() {
	local file line ids=''
	for file in "${UBLK_BPF_DEV_DIR:-/dev}"/ublkc*; do
		[[ ! -e $file ]] || ids+=" ${file##*ublkc}"
	done
	for file in "${UBLK_BPF_STATE_DIR:-/run/ublk-bpf}"/*.udev; do
		[[ -e $file ]] && read -r line <"$file" && ids+=" ${line#UBLK_BPF_NAME=}"
	done
	_ublk_bpf_words "$ids"
}

_ublk_bpf() {
	local groups='@GROUPS@' cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' i
	COMPREPLY=()
	# --option=value comes in three words, and so does KNOB=VALUE, of which the value is anybody's guess.
	if [[ ($cur == = && $prev != -*) || ($prev == = && ${COMP_WORDS[COMP_CWORD - 2]} != -*) ]]; then
		return
	fi
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		if [[ ${COMP_WORDS[i]} != -* ]]; then
			command+=${command:+-}${COMP_WORDS[i]}
			[[ $groups == *" $command "* ]] || break
		fi
	done
)";

void put_values(std::ostringstream& out, const CLI::App& root,
                const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    const bool takes_value = option->get_items_expected_max() > 0;
    const bool optional = option->get_items_expected_min() == 0;
    if (option->get_group().empty() || !takes_value || optional ||
        !option->nonpositional())
      continue;
    std::vector<std::string> patterns;
    for (const auto& name : names_of(*option))
      patterns.push_back(dashed(command_of(app)) + ":" + name);
    const std::string values = values_of(root, app, *option);
    out << "\t" << joined(patterns, " | ") << ")\n\t\t"
        << (values.empty() ? "" : values + "\n\t\t") << "return\n\t\t;;\n";
  }
}

void put_rest(std::ostringstream& out, const CLI::App& root,
              const CLI::App& app) {
  out << "\t" << dashed(command_of(app)) << ")\n";
  for (const CLI::Option* option : app.get_options())
    if (!option->nonpositional() && !option->get_group().empty())
      out << "\t\tif [[ $cur != -* ]]; then\n\t\t\t"
          << values_of(root, app, *option) << "\n\t\t\treturn\n\t\tfi\n";
  out << "\t\t_ublk_bpf_words '" << joined(options_of(app), " ")
      << "'\n\t\t;;\n";
}

}  // namespace

std::string bash_completion() {
  Options options;
  const auto app = make_app(options);
  const CLI::App& root = *app;
  std::ostringstream out;
  std::string head = kHead, groups = " ";
  for (const CLI::App* group : groups_of(root))
    groups += group->get_name() + " ";
  constexpr std::string_view kPlace = "@GROUPS@";
  head.replace(head.find(kPlace), kPlace.size(), groups);
  out << head << "\tcase $command:$prev in\n";
  for (const CLI::App* sub : command_apps(root)) put_values(out, root, *sub);
  out << "\tesac\n\tcase $command in\n\t'')\n\t\t_ublk_bpf_words '"
      << joined(names_in(root), " ") << " " << joined(options_of(root), " ")
      << "'\n\t\t;;\n";
  for (const CLI::App* group : groups_of(root))
    out << "\t" << group->get_name() << ")\n\t\t_ublk_bpf_words '"
        << joined(names_in(*group), " ") << " "
        << joined(options_of(*group), " ") << "'\n\t\t;;\n";
  for (const CLI::App* sub : command_apps(root)) put_rest(out, root, *sub);
  out << "\tesac\n}\n\ncomplete -F _ublk_bpf ublk-bpf\n";
  return out.str();
}

}  // namespace ublk::cli
