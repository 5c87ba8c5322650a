// SPDX-License-Identifier: MIT
#include "sys/error.h"

#include <cstring>

namespace ublk {

std::string vfmt(std::string_view format, std::format_args args) {
  return std::vformat(format, args);
}

Error Error::sys(int code, std::string attempt) {
  return {code, std::move(attempt), true};
}

Error Error::plain(int code, std::string what) {
  return {code, std::move(what), false};
}

Error Error::in(std::string_view object) && {
  what_ = fmt("{}: {}", object, what_);
  return std::move(*this);
}

Error Error::hint(std::string text) && {
  if (hint_.empty()) hint_ = std::move(text);
  return std::move(*this);
}

Error Error::detail(std::string text) && {
  if (detail_.empty()) detail_ = std::move(text);
  return std::move(*this);
}

std::string Error::code_name() const { return errno_name(code_); }

std::string Error::message() const {
  if (!spell_ || code_ == 0) return what_;
  const char* text = strerrordesc_np(code_);
  return text ? fmt("{}: {}", what_, text) : fmt("{}: error {}", what_, code_);
}

std::string Error::line() const {
  return hint_.empty() ? message() : fmt("{}: {}", message(), hint_);
}

std::string errno_name(int code) {
  const char* name = strerrorname_np(code);
  return name ? name : fmt("{}", code);
}

}  // namespace ublk
