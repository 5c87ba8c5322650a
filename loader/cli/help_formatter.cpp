// SPDX-License-Identifier: MIT
#include "cli/help_formatter.h"

#include <sstream>

#include "cli/app.h"

namespace ublk::cli {

namespace {

// "1 to 4096" of a number's type, "N:UINT in [1 - 4096]"; "" without bounds.
std::string bounds_of(const std::string& type) {
  constexpr std::string_view kBefore = " in [", kBetween = " - ";
  const size_t begin = type.find(kBefore);
  if (begin == std::string::npos) return {};
  const size_t least = begin + kBefore.size();
  const size_t between = type.find(kBetween, least);
  const size_t end = type.find(']', least);
  if (between == std::string::npos || end == std::string::npos) return {};
  const size_t most = between + kBetween.size();
  return type.substr(least, between - least) + " to " +
         type.substr(most, end - most);
}

// "-t, --type TARGET"
std::string tag_of(const CLI::Option& option, bool is_positional) {
  std::string tag;
  if (is_positional) {
    tag = option.get_name(true, false);
  } else {
    for (const auto& name : shown_names(option))
      tag += (tag.empty() ? "" : ", ") + name;
  }
  const std::string type = option.get_type_name();
  if (option.get_items_expected_max() > 0 && !type.empty())
    tag += " " + type.substr(0, type.find(':'));
  return tag;
}

// What it says of itself, and what is known of its value.
std::string text_of(const CLI::Option& option) {
  std::string known;
  const auto add = [&](const std::string& part) {
    known += (known.empty() ? "" : "; ") + part;
  };
  if (option.get_required()) add("required");
  if (const auto bounds = bounds_of(option.get_type_name()); !bounds.empty())
    add(bounds);
  if (const auto value = option.get_default_str(); !value.empty())
    add("default: " + value);
  const std::string& text = option.get_description();
  return known.empty() ? text : text + " (" + known + ")";
}

}  // namespace

std::string wrapped(std::string_view text, size_t columns, size_t indent,
                    size_t at) {
  std::string out;
  bool first = true;  // of its line
  size_t column = at;
  const auto break_line = [&] {
    out += '\n';
    column = 0;
    first = true;
  };
  for (size_t pos = 0; pos < text.size();) {
    if (text[pos] == '\n') {
      break_line();
      pos++;
      continue;
    }
    if (text[pos] == ' ') {
      pos++;
      continue;
    }
    const size_t end = std::min(text.find_first_of(" \n", pos), text.size());
    const auto word = text.substr(pos, end - pos);
    if (!first && column + 1 + word.size() > columns) break_line();
    if (column == 0 && indent > 0 && !out.empty()) {
      out.append(indent, ' ');
      column = indent;
    } else if (!first) {
      out += ' ';
      column++;
    }
    out += word;
    column += word.size();
    first = false;
    pos = end;
  }
  return out;
}

std::string HelpFormatter::row(const std::string& name,
                               const std::string& text) const {
  const size_t column = get_column_width();
  std::string out = "  " + name;
  if (out.size() + 2 > column)
    out += "\n" + std::string(column, ' ');
  else
    out.append(column - out.size(), ' ');
  return out + wrapped(text, kHelpColumns, column, column) + "\n";
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return wrapped(CLI::Formatter::make_description(app), kHelpColumns, 0, 0);
}

// Lines that are indented are examples, to be copied as they are.
std::string HelpFormatter::make_footer(const CLI::App* app) const {
  if (app->get_footer().empty()) return {};
  std::istringstream in(app->get_footer());
  std::string out = "\n";
  for (std::string line; std::getline(in, line);)
    out += (line.starts_with(' ') ? line : wrapped(line, kHelpColumns, 0, 0)) +
           "\n";
  return out;
}

std::string HelpFormatter::make_subcommand(const CLI::App* sub) const {
  return row(sub->get_name(), sub->get_description());
}

std::string HelpFormatter::make_option(const CLI::Option* option,
                                       bool is_positional) const {
  return row(tag_of(*option, is_positional), text_of(*option));
}

}  // namespace ublk::cli
