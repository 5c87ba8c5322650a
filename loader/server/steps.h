// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <cerrno>
#include <coroutine>
#include <optional>
#include <utility>

namespace ublk {

// A request that takes several SQEs, as a coroutine that awaits one after the
// other; also a part of such a request, which another one awaits. It fits the
// start() and done() of a target:
//
//   Steps copy(Io& io) {
//     const int res = co_await sqe_of([&](io_uring_sqe* sqe) { prepare it });
//     if (res < 0) co_return res;
//     co_return co_await another_part(io);
//   }
//   start(): io.steps = copy(io); return io.steps.begin(sqe);
//   done():  return io.steps.go_on(res, sqe);
//
// There is at most one SQE of a request in flight. Its memory may be in the
// coroutine's frame. Destruction ends the request where it is, with the
// destructors of all that it has; without an SQE in flight it may be at any
// time. There is no exception but that for want of memory, which ends the part
// in which it is thrown with -ENOMEM, as does a frame that cannot be allocated.
class [[nodiscard]] Steps {
  // What a request's parts have in common with whoever drives it.
  struct Turn {
    io_uring_sqe* sqe = nullptr;
    int res = 0;
    std::coroutine_handle<> waiting{};  // for the SQE in flight
  };

 public:
  struct promise_type {
    Turn own{};         // of a request
    Turn* turn = &own;  // of the request that this is a part of
    std::coroutine_handle<> caller = std::noop_coroutine();
    int result = 0;

    struct Return {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(
          std::coroutine_handle<promise_type> self) noexcept {
        return self.promise().caller;
      }
      void await_resume() noexcept {}
    };
    static Steps get_return_object_on_allocation_failure() noexcept {
      return {};
    }
    Steps get_return_object() noexcept {
      return Steps(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    Return final_suspend() noexcept { return {}; }
    void return_value(int value) noexcept { result = value; }
    void unhandled_exception() noexcept { result = -ENOMEM; }
  };

  Steps() = default;
  Steps(Steps&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)) {}
  Steps& operator=(Steps&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Steps() { reset(); }

  // Whether it was begun and has not ended.
  explicit operator bool() const { return static_cast<bool>(handle_); }
  void reset() {
    if (handle_) std::exchange(handle_, nullptr).destroy();
  }

  // To the first SQE, which is `sqe` then, or to the result: what start() of a
  // target gives.
  std::optional<int> begin(io_uring_sqe* sqe) {
    if (!handle_) return -ENOMEM;
    handle_.promise().own.waiting = handle_;
    return go_on(0, sqe);
  }
  // The SQE has completed with `res`: to the next one, or to the result. Then
  // the frame is gone.
  std::optional<int> go_on(int res, io_uring_sqe* sqe) {
    Turn& turn = handle_.promise().own;
    turn.sqe = sqe;
    turn.res = res;
    turn.waiting.resume();
    if (!handle_.done()) return std::nullopt;
    const int result = handle_.promise().result;
    reset();
    return result;
  }

  // A part: its result, 0 or more, or a negative errno.
  auto operator co_await() && noexcept {
    struct Part {
      std::coroutine_handle<promise_type> part;
      bool await_ready() noexcept { return !part; }
      std::coroutine_handle<> await_suspend(
          std::coroutine_handle<promise_type> caller) noexcept {
        part.promise().turn = caller.promise().turn;
        part.promise().caller = caller;
        return part;
      }
      int await_resume() noexcept {
        return part ? part.promise().result : -ENOMEM;
      }
    };
    return Part{handle_};
  }

  template <typename Prepare>
  struct Sqe {
    Prepare prepare;
    Turn* turn = nullptr;
    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<promise_type> self) {
      turn = self.promise().turn;
      turn->waiting = self;
      prepare(turn->sqe);
    }
    int await_resume() noexcept { return turn->res; }
  };

 private:
  explicit Steps(std::coroutine_handle<promise_type> handle)
      : handle_(handle) {}

  std::coroutine_handle<promise_type> handle_{};
};

// The next SQE of a request: `prepare` is called with it, and prepares all but
// its user_data. Gives what it completes with.
template <typename Prepare>
Steps::Sqe<Prepare> sqe_of(Prepare prepare) {
  return {.prepare = std::move(prepare)};
}

}  // namespace ublk
