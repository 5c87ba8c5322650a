// SPDX-License-Identifier: MIT
#include "server/drains.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <utility>

#include "sys/waiting.h"

namespace ublk {

namespace {

bool passes(int code) {
  return code == ENOMEM || code == EAGAIN || code == EINTR;
}

}  // namespace

Drains::Drains(Drain drain)
    : drain_(std::move(drain)),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

Drains::~Drains() = default;

Drains::Part Drains::join() {
  Part part;
  {
    const std::lock_guard locked(mutex_);
    if (!next_) next_ = std::make_shared<SaveRounds::Round>();
    part.round_ = next_;
  }
  wanted_.notify_one();
  return part;
}

std::optional<FutexWait> Drains::Part::waits_for() const {
  if (std::atomic_ref(round_->ended).load()) return std::nullopt;
  return FutexWait{&round_->ended, 0};
}

void Drains::run(const std::stop_token& stop) {
  for (;;) {
    std::shared_ptr<SaveRounds::Round> round;
    {
      std::unique_lock locked(mutex_);
      wanted_.wait(locked, stop, [this] { return next_ != nullptr; });
      round = std::exchange(next_, nullptr);
    }
    if (!round) return;
    auto drained = drain_();
    // For want of memory no write is to fail.
    while (!drained && passes(drained.error().code()) &&
           !stop.stop_requested()) {
      std::this_thread::sleep_for(kRetryPeriod);
      drained = drain_();
    }
    round->result = drained ? 0 : negative(drained.error().code());
    std::atomic_ref(round->ended).store(1);
    wake_all(&round->ended);
  }
}

}  // namespace ublk
