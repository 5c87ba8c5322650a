// SPDX-License-Identifier: MIT
#include "device/find.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <vector>

#include "ctrl/control.h"
#include "device/device.h"
#include "device/server_process.h"
#include "sys/names.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;

// "ublkb7", "ublkc7", "7"
std::optional<uint32_t> number_of(std::string_view text) {
  for (const std::string_view prefix : {"ublkb", "ublkc"})
    if (text.starts_with(prefix)) {
      text.remove_prefix(prefix.size());
      break;
    }
  uint32_t number = 0;
  const auto [end, bad] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (bad != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return number;
}

// "ublkb7" of a node, whatever it is called.
std::string kernel_name(const struct stat& node) {
  const char* kind = S_ISBLK(node.st_mode)   ? "block"
                     : S_ISCHR(node.st_mode) ? "char"
                                             : nullptr;
  if (!kind) return {};
  std::error_code ec;
  return fs::read_symlink(fmt("/sys/dev/{}/{}:{}", kind, major(node.st_rdev),
                              minor(node.st_rdev)),
                          ec)
      .filename()
      .string();
}

bool is_same(const struct stat& a, const struct stat& b) {
  if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// One that is gone is known by its path.
bool is_file(const std::string& file, const std::string& path,
             const std::optional<struct stat>& of_path) {
  struct stat its{};
  if (!of_path || ::stat(file.c_str(), &its) != 0) return file == path;
  return is_same(its, *of_path);
}

std::vector<uint32_t> that_serve(const StateStore& states,
                                 const std::string& path,
                                 const std::optional<struct stat>& of_path) {
  std::vector<uint32_t> found;
  for (const uint32_t dev_id : device_ids()) {
    const auto state = states.load(dev_id);
    if (state &&
        std::ranges::any_of(state->target.files, [&](const std::string& file) {
          return is_file(file, path, of_path);
        }))
      found.push_back(dev_id);
  }
  return found;
}

}  // namespace

std::optional<uint32_t> find_name(const StateStore& states,
                                  const std::string& name) {
  for (const uint32_t dev_id : device_ids())
    if (const auto state = states.load(dev_id); state && state->name == name)
      return dev_id;
  return std::nullopt;
}

Result<uint32_t> find_device(const StateStore& states,
                             const std::string& text) {
  if (const auto number = number_of(text)) return *number;
  if (const auto named = find_name(states, text)) return *named;
  std::optional<struct stat> node(std::in_place);
  if (::stat(text.c_str(), &*node) != 0) node.reset();
  // Without a node, too, it can be told which one is meant.
  const std::string name = node ? kernel_name(*node)
                           : text.starts_with("/dev/ublk")
                               ? text.substr(text.rfind('/') + 1)
                               : std::string();
  if (name.starts_with("ublk")) {
    if (const auto number = number_of(name)) return *number;
    if (node)
      return std::unexpected(Error::plain(EINVAL, fmt("{}: is {}, a partition",
                                                      shown_name(text), name))
                                 .hint("name the disk that it is on"));
  }
  std::error_code ec;
  const std::string path = fs::absolute(text, ec).lexically_normal().string();
  const auto found = that_serve(states, path, node);
  if (found.size() == 1) return found.front();
  if (!found.empty())
    return std::unexpected(
        Error::plain(ENOTUNIQ, fmt("{}: is served by {}", shown_name(text),
                                   names_of(found)))
            .hint("name the device"));
  return std::unexpected(
      Error::plain(ENODEV, fmt("{}: is neither the name of a device nor a file "
                               "that one serves",
                               shown_name(text)))
          .hint("ublk-bpf list shows them"));
}

}  // namespace ublk
