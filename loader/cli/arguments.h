// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace ublk::cli {

// What a command can take. Values are written when the command line is
// parsed, so they outlive this. Names: "-f,--file", or "object" for one that
// goes by its place.
class Arguments {
 public:
  // `device` is written, if one is not given as a number.
  Arguments(CLI::App& app, std::string& device) : app_(app), device_(device) {}

  void text(const char* names, std::string& value, const char* type,
            const std::string& help, bool required = false);
  // Once per value.
  void texts(const char* names, std::vector<std::string>& values,
             const char* type, const std::string& help);
  void number(const char* names, uint32_t& value, uint32_t least, uint32_t most,
              const std::string& help);
  void seconds(const char* names, uint32_t& value, uint32_t least,
               const std::string& help);
  void flag(const char* names, bool& value, const std::string& help);
  // Bare, or followed by 0 or 1: other ublk tools have either.
  void toggle(const char* names, bool& value, const std::string& help);
  // Accepted for the sake of other tools' scripts, and ignored.
  void ignored(const char* names, std::string& value);
  // -n and --dev, the same for every command: a number, or a name, path or file
  // that main() looks for before the command runs. Stays as it is if not given.
  void device(int64_t& dev_id, bool required);
  // The same by its place, as `device`; `given` says whether it was.
  void device_at_its_place(int64_t& dev_id, bool& given);
  // Of a device that there is not yet: a number.
  void new_device(int64_t& dev_id);
  // --changed-file, the same for every command that opens a device's file
  // again.
  void changed_file(bool& value);
  // After the options: more to know, and examples.
  void footer(const char* text);

 private:
  CLI::App& app_;
  std::string& device_;
};

}  // namespace ublk::cli
