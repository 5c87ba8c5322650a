// SPDX-License-Identifier: MIT
#include "cli/config.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "cli/app.h"
#include "device/own_program.h"
#include "sys/device_name.h"
#include "sys/names.h"
#include "sys/text_file.h"

namespace ublk::cli {

namespace {

namespace fs = std::filesystem;
// Unlike json of cli/json.h: in the order of the names.
using SortedJson = nlohmann::json;

constexpr const char* kProgram = "program";
constexpr const char* kComment = "comment";
constexpr const char* kSuffix = ".json";

// Options that are a command's, not a device's.
constexpr std::string_view kNotOfAdd[] = {
    "help", "json", "deadline", "foreground",
    "show", "name", "count",    "unprivileged"};
constexpr std::string_view kNotOfAttach[] = {
    "help", "json", "deadline", "dev", "replace", "keep-maps", "changed-file"};

// A key, and the option that it stands for.
struct Key {
  std::string name;
  const CLI::Option* option;
};

std::vector<Key> keys_of(const CLI::App& app, bool of_add) {
  std::vector<Key> keys;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    const auto& names = option->get_lnames();
    const std::string name =
        names.empty() ? option->get_single_name() : names.front();
    const bool left_out = of_add ? std::ranges::contains(kNotOfAdd, name)
                                 : std::ranges::contains(kNotOfAttach, name);
    if (!left_out) keys.push_back({name, option});
  }
  return keys;
}

// How many letters have to be changed, left out or put in.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); j++) {
      const size_t changed = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row.back();
}

std::unexpected<Error> unknown_key(const std::string& key,
                                   std::vector<std::string> known) {
  const auto nearest = std::ranges::min_element(
      known, {}, [&](const std::string& name) { return distance(key, name); });
  return std::unexpected(
      Error::plain(EINVAL, fmt("'{}': is not a key", shown_name(key)))
          .hint(fmt("the nearest is '{}'", *nearest)));
}

std::unexpected<Error> wrong_type(const std::string& key, const char* needs) {
  return fail(EINVAL, "'{}': needs {}", key, needs);
}

// "--key=value", as often as need be.
Result<void> put_text(const std::string& key, const SortedJson& value,
                      std::vector<std::string>& args) {
  if (!value.is_string() || value.get_ref<const std::string&>().empty())
    return wrong_type(key, "a string that is not empty");
  args.push_back(fmt("--{}={}", key, value.get<std::string>()));
  return {};
}

bool is_kind(const CLI::Option& option, std::string_view type) {
  const std::string name = option.get_type_name();
  return name == type || name.starts_with(std::string(type) + ":");
}

Result<void> put_option(const Key& key, const SortedJson& value,
                        std::vector<std::string>& args) {
  const CLI::Option& option = *key.option;
  if (option.get_items_expected_max() == 0) {
    if (!value.is_boolean()) return wrong_type(key.name, "true or false");
    if (value.get<bool>()) args.push_back("--" + key.name);
    return {};
  }
  if (option.get_items_expected_min() == 0) {
    if (!value.is_boolean()) return wrong_type(key.name, "true or false");
    args.push_back(fmt("--{}={}", key.name, value.get<bool>() ? 1 : 0));
    return {};
  }
  if (is_kind(option, "N")) {
    if (!value.is_number_unsigned())
      return wrong_type(key.name, "a number, 0 or more");
    args.push_back(fmt("--{}={}", key.name, value.get<uint64_t>()));
    return {};
  }
  if (is_kind(option, "SIZE") && value.is_number_unsigned()) {
    args.push_back(fmt("--{}={}", key.name, value.get<uint64_t>()));
    return {};
  }
  if (option.get_multi_option_policy() != CLI::MultiOptionPolicy::TakeAll ||
      !value.is_array())
    return put_text(key.name, value, args);
  if (value.empty()) return wrong_type(key.name, "a string, or a list of some");
  for (const SortedJson& one : value) TRY(put_text(key.name, one, args));
  return {};
}

// {"knob": 1} as "--set=knob=1"
Result<void> put_knobs(const SortedJson& value,
                       std::vector<std::string>& args) {
  if (!value.is_object())
    return wrong_type("set", "an object, as {\"knob\": 1}");
  for (const auto& [knob, to] : value.items()) {
    if (!to.is_string() && !to.is_number_integer() && !to.is_boolean())
      return wrong_type(knob, "a number, a string, true or false");
    args.push_back(fmt("--set={}={}", knob,
                       to.is_string() ? to.get<std::string>() : to.dump()));
  }
  return {};
}

// At boot nobody knows what a relative one is relative to.
Result<void> check_absolute(const std::string& key, const SortedJson& value) {
  for (const SortedJson& one :
       value.is_array() ? value : SortedJson::array({value}))
    if (one.is_string() && !one.get_ref<const std::string&>().starts_with('/'))
      return fail(EINVAL, "'{}': '{}' is not an absolute path", key,
                  shown_name(one.get<std::string>()));
  return {};
}

bool is_path(const std::string& key) {
  return key == "file" || key == "object" || key == "pin-maps";
}

const CLI::App& app_of(const CLI::App& root, const char* command) {
  const auto apps = command_apps(root);
  return **std::ranges::find_if(
      apps, [&](const CLI::App* app) { return command_of(*app) == command; });
}

Result<Options> parse_args(const std::vector<std::string>& args) {
  std::vector<const char*> argv;
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  Parsed parsed = parse(static_cast<int>(argv.size()), argv.data());
  if (parsed.status != kDone || !parsed.text.empty())
    return fail(EINVAL, "{}", parsed.text);
  return std::move(parsed.options);
}

Result<AddRequest> read_add(const CLI::App& root, const SortedJson& in) {
  const auto keys = keys_of(app_of(root, "add"), true);
  std::vector<std::string> known{kProgram, kComment};
  for (const Key& key : keys) known.push_back(key.name);
  std::vector<std::string> args{"ublk-bpf", "add"};
  for (const auto& [name, value] : in.items()) {
    if (name == kComment && !value.is_string())
      return wrong_type(kComment, "a string");
    if (name == kProgram || name == kComment) continue;
    const auto key = std::ranges::find(keys, name, &Key::name);
    if (key == keys.end()) return unknown_key(name, known);
    if (is_path(name)) TRY(check_absolute(name, value));
    TRY(put_option(*key, value, args));
  }
  // What is there at boot outlives its server, unless somebody says otherwise.
  if (!in.contains("recovery") && !in.contains("reissue") &&
      !in.contains("fail-io"))
    args.emplace_back("--recovery=1");
  const Options options = TRY(parse_args(args));
  auto requests = TRY(add_requests(options.add));
  if (requests.size() != 1)
    return fail(EINVAL, "'file': a configuration is of one device, not of {}",
                requests.size());
  return std::move(requests.front());
}

Result<AttachRequest> read_attach(const CLI::App& root, const SortedJson& in) {
  if (!in.is_object()) return wrong_type(kProgram, "an object");
  const auto keys = keys_of(app_of(root, "attach"), false);
  std::vector<std::string> known;
  for (const Key& key : keys) known.push_back(key.name);
  std::vector<std::string> args{"ublk-bpf", "attach", "--dev=0"};
  std::string object;
  for (const auto& [name, value] : in.items()) {
    const auto key = std::ranges::find(keys, name, &Key::name);
    if (key == keys.end()) return unknown_key(name, known);
    const bool named = name == "object" && value.is_string() &&
                       is_program_name(value.get_ref<const std::string&>());
    if (is_path(name) && !named) TRY(check_absolute(name, value));
    if (name == "set") {
      TRY(put_knobs(value, args));
    } else if (name == "object") {
      if (!value.is_string()) return wrong_type(name, "a string");
      object = value.get<std::string>();
    } else {
      TRY(put_option(*key, value, args));
    }
  }
  if (object.empty()) return fail(EINVAL, "'object': is missing");
  args.push_back(object);
  return attach_request(0, TRY(parse_args(args)).attach);
}

// Of keys that are there twice the library takes the last one.
Result<SortedJson> parse_once(std::string_view text) {
  std::vector<std::set<std::string>> open;
  std::string twice;
  const auto look = [&](int, SortedJson::parse_event_t event,
                        SortedJson& parsed) {
    if (event == SortedJson::parse_event_t::object_start) open.emplace_back();
    if (event == SortedJson::parse_event_t::object_end) open.pop_back();
    if (event == SortedJson::parse_event_t::key) {
      const auto key = parsed.get<std::string>();
      if (!open.back().insert(key).second) twice = key;
    }
    return true;
  };
  try {
    SortedJson in = SortedJson::parse(text, look);
    if (!twice.empty()) return fail(EINVAL, "'{}': is there twice", twice);
    if (!in.is_object()) return fail(EINVAL, "is not a JSON object");
    return in;
  } catch (const SortedJson::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const std::string_view what = e.what();
    return fail(EINVAL, "is not JSON: {}", what.substr(what.find("] ") + 2));
  }
}

}  // namespace

Result<Config> config_from_json(const std::string& name,
                                std::string_view text) {
  TRY(check_device_name(name));
  const SortedJson in = TRY(parse_once(text));
  Options options;
  const auto root = make_app(options);
  Config config{.name = name, .add = TRY(read_add(*root, in)), .attach = {}};
  config.add.name = name;
  if (in.contains(kProgram))
    config.attach = TRY_IN(kProgram, read_attach(*root, in[kProgram]));
  if (config.attach && !config.add.bpf)
    return fail(EINVAL, "'no-bpf' and 'program' exclude each other");
  return config;
}

std::string config_path(const std::string& dir, const std::string& name) {
  return fmt("{}/{}{}", dir, name, kSuffix);
}

Result<Config> read_config(const std::string& dir, const std::string& name) {
  TRY(check_device_name(name));
  const std::string path = config_path(dir, name);
  auto text = read_text(path);
  if (!text)
    return std::unexpected(
        std::move(text).error().hint("ublk-bpf help up says what is there"));
  return TRY_IN(path, config_from_json(name, *text));
}

Result<std::vector<std::string>> config_names(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(dir, ec)) {
    const fs::path& path = entry.path();
    if (path.extension() == kSuffix) names.push_back(path.stem().string());
  }
  if (ec && ec.value() != ENOENT) return fail_sys(ec.value(), "{}: read", dir);
  std::ranges::sort(names);
  return names;
}

}  // namespace ublk::cli
