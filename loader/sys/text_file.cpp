// SPDX-License-Identifier: MIT
#include "sys/text_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>

#include "sys/unique_fd.h"

namespace ublk {

Result<std::string> read_text(const std::string& path) {
  return read_text_at(AT_FDCWD, path);
}

Result<std::string> read_text_at(int dir_fd, const std::string& name) {
  UniqueFd fd = TRY(UniqueFd::open_at(dir_fd, name, O_RDONLY));
  std::string text;
  std::array<char, 4096> chunk;
  for (;;) {
    ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_sys(errno, "{}: read", name);
    if (got == 0) return text;
    text.append(chunk.data(), static_cast<size_t>(got));
  }
}

std::optional<uint64_t> read_number(const std::string& path) {
  auto text = read_text(path);
  uint64_t number = 0;
  if (!text ||
      std::from_chars(text->data(), text->data() + text->size(), number).ec !=
          std::errc())
    return std::nullopt;
  return number;
}

Result<void> replace_text_at(int dir_fd, const std::string& name,
                             std::string_view text) {
  const std::string temporary = fmt("{}.{}.new", name, ::getpid());
  UniqueFd fd = TRY(
      UniqueFd::open_at(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  for (size_t done = 0; done < text.size();) {
    ssize_t put = ::write(fd.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const int code = errno;
      ::unlinkat(dir_fd, temporary.c_str(), 0);
      return fail_sys(code, "{}: write", temporary);
    }
    done += static_cast<size_t>(put);
  }
  if (::renameat(dir_fd, temporary.c_str(), dir_fd, name.c_str()) != 0) {
    const int code = errno;
    ::unlinkat(dir_fd, temporary.c_str(), 0);
    return fail_sys(code, "{}: rename to {}", temporary, name);
  }
  return {};
}

std::vector<std::string> names_at(int dir_fd) {
  std::vector<std::string> names;
  const int fd = ::openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = fd < 0 ? nullptr : ::fdopendir(fd);
  if (!dir && fd >= 0) ::close(fd);
  if (!dir) return names;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(dir);
  return names;
}

}  // namespace ublk
