// SPDX-License-Identifier: MIT
#include "server/server.h"

#include <pthread.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <system_error>

#include "server/clone.h"

namespace ublk {

Result<std::unique_ptr<Server>> Server::create(
    Target target, UniqueFd char_fd, const ublksrv_ctrl_dev_info& info,
    const std::vector<cpu_set_t>& queues) {
  UniqueFd ended(::eventfd(0, EFD_CLOEXEC));
  if (!ended.valid()) return fail_sys(errno, "event of the queues");
  std::unique_ptr<Server> server(
      new Server(std::move(target), std::move(char_fd), std::move(ended)));
  for (size_t q = 0; q < queues.size(); q++)
    server->configs_.push_back({.dev_id = info.dev_id,
                                .q_id = static_cast<uint16_t>(q),
                                .depth = info.queue_depth,
                                .max_io_bytes = info.max_io_buf_bytes,
                                .char_fd = server->char_fd_.get(),
                                .target = &server->target_,
                                .path = &data_path_of(info.flags),
                                .dev_flags = info.flags,
                                .cpus = queues[q]});
  return server;
}

// Whoever needs to know how it ended has joined it before.
Server::~Server() { (void)join(); }

void Server::serve(size_t index) {
  const QueueConfig& config = configs_[index];
  Thread& self = threads_[index];
  // A queue of no online CPU runs anywhere.
  if (CPU_COUNT(&config.cpus))
    ::pthread_setaffinity_np(::pthread_self(), sizeof(config.cpus),
                             &config.cpus);
  ::pthread_setname_np(::pthread_self(),
                       queue_thread_name(config.dev_id, config.q_id).c_str());
  {
    auto queue = Queue::create(config);
    if (!queue) self.setup_error = queue.error();
    fetched_->count_down();
    if (queue)
      if (auto ran = queue->run(); !ran)
        self.run_error = std::move(ran).error();
  }
  if (self.run_error) failed_ = true;
  nr_ended_++;
  ::eventfd_write(ended_.get(), 1);
}

Result<void> Server::start() {
  threads_.resize(configs_.size());
  fetched_.emplace(static_cast<ptrdiff_t>(configs_.size()));
  for (size_t i = 0; i < configs_.size(); i++) {
    try {
      threads_[i].thread = std::thread([this, i] { serve(i); });
    } catch (const std::system_error& e) {
      // No thread: its share of the latch is ours.
      threads_[i].setup_error = Error::sys(e.code().value(), "thread");
      fetched_->count_down();
    }
  }
  fetched_->wait();
  for (size_t i = 0; i < threads_.size(); i++)
    if (threads_[i].setup_error)
      return std::unexpected(
          Error(*threads_[i].setup_error).in(fmt("queue {}", i)));
  return {};
}

Result<void> Server::join() {
  for (Thread& entry : threads_)
    if (entry.thread.joinable()) entry.thread.join();
  // Before the device is let go of, and another server may come.
  Result<void> closed;
  if (target_.clone) closed = target_.clone->close();
  for (size_t i = 0; i < threads_.size(); i++)
    if (threads_[i].run_error)
      return std::unexpected(
          Error(*threads_[i].run_error).in(fmt("queue {}", i)));
  return closed;
}

}  // namespace ublk
