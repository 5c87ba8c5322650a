// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <format>
#include <string>
#include <string_view>
#include <utility>

namespace ublk {

// std::format(), instantiated once: it is most of what a small file takes to
// compile otherwise.
std::string vfmt(std::string_view format, std::format_args args);
template <typename... Args>
std::string fmt(std::format_string<Args...> format, Args&&... args) {
  return vfmt(format.get(), std::make_format_args(args...));
}

// A failure that keeps the first errno and gains context outward. Its line
// reads `<object>: <attempt>: <errno text>: <hint>`.
class [[nodiscard]] Error {
 public:
  // A failed system call or kernel command. `code` is a positive errno.
  static Error sys(int code, std::string attempt);
  // A failure that is known before the kernel is asked; `what` says it whole.
  // `code` is the errno that fits best and is not spelled out in the line.
  static Error plain(int code, std::string what);

  // Puts the object, or an outer attempt, before what is there.
  Error in(std::string_view object) &&;
  // What the user can do about it. An inner hint is kept: it knows more.
  Error hint(std::string text) &&;
  // A text of several lines that belongs to the error, for example a log.
  Error detail(std::string text) &&;

  int code() const { return code_; }
  // strerrorname_np() of the code, for example "EBUSY".
  std::string code_name() const;
  // Object, attempt and errno text, without the hint.
  std::string message() const;
  // The whole line.
  std::string line() const;
  const std::string& hint_text() const { return hint_; }
  const std::string& detail_text() const { return detail_; }

 private:
  Error(int code, std::string what, bool spell)
      : code_(code), what_(std::move(what)), spell_(spell) {}

  int code_;
  std::string what_;
  bool spell_;
  std::string hint_;
  std::string detail_;
};

// A value or why there is none. Must be looked at: one that is dropped, or kept
// in a variable that nobody reads, does not compile. Where an error does not
// matter, `(void)` and a comment say so.
template <typename T>
class [[nodiscard, gnu::warn_unused]] Result : public std::expected<T, Error> {
 public:
  using Base = std::expected<T, Error>;
  using Base::Base;
  // What the monadic functions return.
  Result(Base base) : Base(std::move(base)) {}
};

// The kernel's and liburing's convention, a negative errno or a value, turned
// into a positive errno: 0 if `result` is not an error.
constexpr int errno_of(long result) {
  return result < 0 && result >= -4095 ? static_cast<int>(-result) : 0;
}
// And back, for the one place where this side answers the kernel.
constexpr int negative(int code) { return code > 0 ? -code : code; }

std::string errno_name(int code);

template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail_sys(
    int code, std::format_string<Args...> format, Args&&... args) {
  return std::unexpected(
      Error::sys(code, vfmt(format.get(), std::make_format_args(args...))));
}
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail(int code,
                                          std::format_string<Args...> format,
                                          Args&&... args) {
  return std::unexpected(
      Error::plain(code, vfmt(format.get(), std::make_format_args(args...))));
}

namespace detail {
template <typename T>
T take(Result<T>& result) {
  return std::move(*result);
}
inline void take(Result<void>&) {}
}  // namespace detail

}  // namespace ublk

// The value of a Result, or return its error from the enclosing function.
#define TRY(expr)                                                             \
  ({                                                                          \
    auto try_result_ = (expr);                                                \
    if (!try_result_) return std::unexpected(std::move(try_result_).error()); \
    ::ublk::detail::take(try_result_);                                        \
  })
// The same, naming the object that the error is about.
#define TRY_IN(object, expr)                                             \
  ({                                                                     \
    auto try_result_ = (expr);                                           \
    if (!try_result_)                                                    \
      return std::unexpected(std::move(try_result_).error().in(object)); \
    ::ublk::detail::take(try_result_);                                   \
  })
