// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

namespace ublk::cli {

// Where help breaks its lines. Only what cannot be broken, such as an example,
// goes past it.
inline constexpr size_t kHelpColumns = 80;

// `text` in lines of at most `columns`, broken at spaces. All lines but the
// first begin with `indent` spaces, and the first begins at column `at`. A
// newline in the text stays one.
std::string wrapped(std::string_view text, size_t columns, size_t indent,
                    size_t at);

// The library's own puts each description on one line, however long, and shows
// all the names that an option has.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_description(const CLI::App* app) const override;
  std::string make_footer(const CLI::App* app) const override;
  std::string make_subcommand(const CLI::App* sub) const override;
  std::string make_option(const CLI::Option* option,
                          bool is_positional) const override;

 private:
  std::string row(const std::string& name, const std::string& text) const;
};

}  // namespace ublk::cli
