// SPDX-License-Identifier: MIT
#include <sstream>

#include "cli/app.h"
#include "cli/reference.h"
#include "server/target.h"

namespace ublk::cli {

namespace {

// As roff has it: no hyphen is a dash, no line a request.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool begins = out.empty() || out.back() == '\n';
    if (begins && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
  }
  return out;
}

// Names, as in "\fB\-t\fR, \fB\-\-type\fR \fITARGET\fR".
std::string tag_of(const CLI::Option& option) {
  std::string tag;
  const auto add = [&](const std::string& name) {
    tag += (tag.empty() ? "" : ", ") + ("\\fB" + roff(name) + "\\fR");
  };
  for (const auto& name : shown_names(option)) add(name);
  // "N:UINT in [1 - 4096]": what it is, and its bounds.
  const std::string type = option.get_type_name();
  if (option.get_items_expected_max() > 0 && !type.empty())
    tag += (tag.empty() ? "" : " ") +
           ("\\fI" + roff(type.substr(0, type.find(':'))) + "\\fR");
  if (const auto at = type.find(" in ["); at != std::string::npos)
    tag += " " + roff(type.substr(at + 4));
  return tag;
}

// Running text, its lines broken where roff's readers want them.
std::string prose(std::string_view text) {
  std::string out, line;
  const auto flush = [&] {
    if (!line.empty()) out += roff(line) + "\n";
    line.clear();
  };
  for (std::string word; const char c : std::string(text) + " ") {
    if (c != ' ' && c != '\n') {
      word += c;
      continue;
    }
    if (line.size() + word.size() > 68) flush();
    if (!word.empty()) line += (line.empty() ? "" : " ") + word;
    word.clear();
    if (c == '\n') flush();
  }
  flush();
  return out;
}

bool is_shown(const CLI::Option& option) { return !option.get_group().empty(); }

void put_options(std::ostringstream& out, const CLI::App& app) {
  out << ".SH OPTIONS\n";
  for (const CLI::Option* option : app.get_options()) {
    if (!is_shown(*option)) continue;
    std::string text = option->get_description();
    if (option->get_required()) text += " (required)";
    if (const auto value = option->get_default_str(); !value.empty())
      text += " (default: " + value + ")";
    out << ".TP\n" << tag_of(*option) << "\n" << prose(text);
    std::string others;
    for (const auto& name : other_names(*option))
      others += (others.empty() ? "" : ", ") + ("\\fB" + roff(name) + "\\fR");
    if (!others.empty())
      out << "Other ublk tools' names are taken too:\n" << others << ".\n";
  }
}

// Footers tell more, and then have examples, indented.
void put_footer(std::ostringstream& more, std::ostringstream& examples,
                const std::string& footer) {
  std::istringstream in(footer);
  bool in_examples = false;
  for (std::string line; std::getline(in, line);) {
    if (line == "Example:" || line == "Examples:")
      in_examples = true;
    else if (in_examples)
      examples << roff(line.substr(
                      std::min(line.find_first_not_of(' '), line.size())))
               << "\n";
    else
      more << prose(line);
  }
}

void put_targets(std::ostringstream& out) {
  out << ".SH TARGETS\n";
  for (const TargetOps* ops : all_targets())
    out << ".TP\n.B " << roff(ops->name) << "\n"
        << roff(ops->summary) << ".\n"
        << roff(ops->help) << "\n";
}

std::string title(const std::string& name) {
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  return fmt(
      ".\\\" SPDX-License-Identifier: MIT\n.TH {} {} {} \"ublk\\-bpf "
      "{}\" \"Block devices\"\n",
      roff(upper), kManSection, UBLK_BPF_TOOL_DATE, UBLK_BPF_TOOL_VERSION);
}

constexpr const char* kExitStatus =
    ".SH EXIT STATUS\n0: done. 1: failed. 2: used wrongly.\n"
    "What went wrong is one line on standard error: the object, what was\n"
    "attempted, the reason, and what can be done about it. With\n"
    ".B \\-\\-json\n"
    "it is on standard output too, as an object.\n";

std::string command_page(const CLI::App& app) {
  const std::string command = command_of(app);
  const std::string name = "ublk-bpf-" + dashed(command);
  std::ostringstream out, more, examples;
  put_footer(more, examples, app.get_footer());
  out << title(name) << ".SH NAME\n"
      << roff(name) << " \\- " << roff(app.get_description())
      << "\n.SH SYNOPSIS\n.B ublk\\-bpf " << roff(command) << "\n";
  for (const CLI::Option* option : app.get_options()) {
    if (!is_shown(*option) || option->nonpositional()) continue;
    const std::string type = "\\fI" + roff(option->get_type_name()) + "\\fR";
    out << (option->get_required() ? type : "[" + type + "]") << "\n";
  }
  out << "[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n"
      << "This command can " << roff(app.get_description()) << ".\n"
      << more.str();
  put_options(out, app);
  if (app.get_name() == "add") put_targets(out);
  out << kExitStatus << ".SH EXAMPLES\n.EX\n"
      << examples.str() << ".EE\n.SH SEE ALSO\n.BR ublk\\-bpf (" << kManSection
      << ")\n";
  return out.str();
}

std::string main_page(const CLI::App& app) {
  std::ostringstream out;
  out << title("ublk-bpf") << ".SH NAME\n"
      << "ublk\\-bpf \\- block devices served in user space and by BPF\n"
         "programs in the kernel\n"
      << ".SH SYNOPSIS\n.B ublk\\-bpf\n\\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n"
      << ".SH DESCRIPTION\n"
      << roff(app.get_description()) << "\n"
      << ".SH COMMANDS\n";
  for (const CLI::App* sub : command_apps(app))
    out << ".TP\n.B " << roff(command_of(*sub)) << "\n"
        << roff(sub->get_description()) << "; see\n.BR ublk\\-bpf\\-"
        << roff(dashed(command_of(*sub))) << " (" << kManSection << ")\n";
  put_options(out, app);
  out << kExitStatus << ".SH FILES\n.TP\n.I /run/ublk\\-bpf\n"
      << "what the kernel does not remember of each device\n.SH SEE ALSO\n";
  std::string last;
  for (const CLI::App* sub : command_apps(app)) {
    if (!last.empty()) out << last << ",\n";
    last = fmt(".BR ublk\\-bpf\\-{} ({})", roff(dashed(command_of(*sub))),
               kManSection);
  }
  // The comma is part of the macro's last argument.
  std::string text = out.str() + last + "\n";
  for (size_t at; (at = text.find("),\n.BR")) != std::string::npos;)
    text.replace(at, 3, ") ,\n");
  return text;
}

}  // namespace

std::map<std::string, std::string> man_pages() {
  Options options;
  const auto app = make_app(options);
  std::map<std::string, std::string> pages;
  pages[fmt("ublk-bpf.{}", kManSection)] = main_page(*app);
  for (const CLI::App* sub : command_apps(*app))
    pages[fmt("ublk-bpf-{}.{}", dashed(command_of(*sub)), kManSection)] =
        command_page(*sub);
  return pages;
}

}  // namespace ublk::cli
