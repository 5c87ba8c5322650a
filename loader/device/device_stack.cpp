// SPDX-License-Identifier: MIT
#include "device/device_stack.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "sys/text_file.h"

namespace ublk {

namespace {

namespace fs = std::filesystem;

dev_t device_of(const struct stat& st) {
  return S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
}

// The device that a path is, or lies on.
std::optional<dev_t> device_of(const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return std::nullopt;
  return device_of(st);
}

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// "253:0", as sysfs has it.
std::optional<dev_t> parse_dev(const std::string& text) {
  unsigned major = 0, minor = 0;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, major);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != ':')
    return std::nullopt;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc{})
    return std::nullopt;
  return makedev(major, minor);
}

// N of "ublkbN".
std::optional<uint32_t> ublk_id(const std::string& name) {
  constexpr std::string_view kPrefix = "ublkb";
  uint32_t id = 0;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* end = name.data() + name.size();
  const auto got = std::from_chars(name.data() + kPrefix.size(), end, id);
  if (got.ec != std::errc{} || got.ptr != end) return std::nullopt;
  return id;
}

}  // namespace

// `node` is the directory of a disk in sysfs.
std::vector<dev_t> DeviceStack::below(const std::string& node,
                                      const std::string& name) const {
  std::vector<dev_t> found;
  const auto add = [&](std::optional<dev_t> dev) {
    if (dev) found.push_back(*dev);
  };
  std::error_code ec;
  for (const auto& slave : fs::directory_iterator(node + "/slaves", ec))
    add(parse_dev(read_text(slave.path().string() + "/dev").value_or("")));
  if (const auto file = read_text(node + "/loop/backing_file"))
    add(device_of(trimmed(*file)));
  if (const auto id = ublk_id(name))
    if (const auto state = states_.load(*id)) {
      for (const auto& file : state->target.files) add(device_of(file));
      for (const auto& layer : state->target.layers) add(device_of(layer.path));
      if (state->attached)
        for (const auto& file : state->attached->files) add(device_of(file));
    }
  return found;
}

std::optional<std::vector<std::string>> DeviceStack::way_down(
    dev_t from, dev_t target, std::vector<dev_t>& seen) const {
  std::error_code ec;
  fs::path node = fs::canonical(
      fmt("{}/dev/block/{}:{}", sysfs_, major(from), minor(from)), ec);
  if (ec) return std::nullopt;  // a file system's that has no device of its own
  if (fs::exists(node / "partition", ec)) node = node.parent_path();
  const auto disk = parse_dev(read_text((node / "dev").string()).value_or(""));
  if (!disk || std::ranges::contains(seen, *disk)) return std::nullopt;
  seen.push_back(*disk);
  const std::string name = node.filename().string();
  if (*disk == target) return std::vector{name};
  for (const dev_t next : below(node.string(), name))
    if (auto rest = way_down(next, target, seen)) {
      rest->insert(rest->begin(), name);
      return rest;
    }
  return std::nullopt;
}

std::optional<std::vector<std::string>> DeviceStack::way(int fd,
                                                         dev_t target) const {
  struct stat st;
  if (::fstat(fd, &st) != 0) return std::nullopt;
  std::vector<dev_t> seen;
  return way_down(device_of(st), target, seen);
}

}  // namespace ublk
