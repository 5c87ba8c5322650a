// SPDX-License-Identifier: MIT
#pragma once

#include <ublk_bpf_maps.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "layer/track_file.h"
#include "server/target.h"
#include "sys/error.h"
#include "sys/mmap_region.h"

namespace ublk {

// What a device's server, its program and the command `track` have in common of
// what was written: shared memory (ublk_bpf_maps.h). Borrowed from a region
// that whoever made it keeps.
class TrackMemory {
 public:
  struct Regions {
    MmapRegion bits{};
    MmapRegion shared{};
    // Called with false before it changes, with true when the file has it all.
    std::function<void(bool saved)> note{};
  };
  // The words of both generations that so many blocks have.
  static uint64_t words_for(uint64_t nr_blocks);

  TrackMemory(Regions regions, ublk_bpf_track* shared,
              std::span<uint64_t> words)
      : regions_(std::move(regions)), shared_(shared), words_(words) {}

  // Of new memory, which is zeroed.
  void begin(const Uuid& of, const TrackBits& bits, bool all);
  // Of memory that a server has left that is gone, with all it had in hand.
  void adopt();
  bool is_of(const Uuid& uuid) const;
  void note(bool saved) const {
    if (regions_.note) regions_.note(saved);
  }

  // Before they are written: in each generation that is active.
  void mark(uint64_t first, uint64_t count);
  // A request of the server's, from before it is marked until it is done:
  // what to give to end().
  uint8_t begin_request();
  void end_request(uint8_t turn);

  // The current period's.
  TrackBits bits() const;
  bool all() const;
  void set_all();

  // The steps of a mark, each by one command at a time.
  void only_current();
  void clear_next();
  void both();
  void go_to_next();
  // One half of waiting for the server's requests that began before: those
  // from here on are counted elsewhere. What to wait for until it is 0.
  uint64_t* turn();
  static uint64_t count(uint64_t* in_flight);

 private:
  uint64_t current() const;

  Regions regions_;
  ublk_bpf_track* shared_;
  std::span<uint64_t> words_;
};

// What a device notes about what is written to it: its track file, and while it
// is served, memory. Destruction closes the file and saves nothing: save()
// does.
class Track {
 public:
  // Of the target's specification, whose image is open, and was `before` it was
  // opened: makes the file if there is none. The file is not locked until
  // take(). ESTALE: it is another image's. EINVAL: other parameters.
  static Result<std::shared_ptr<Track>> open(const Target& target,
                                             const Backing& image,
                                             const TrackedImage& before);
  // Of a device that nobody serves any more, for save_left(). ENOENT: one of
  // the files is gone. ESTALE: it is another image by now.
  static Result<std::shared_ptr<Track>> open_left(const TargetSpec& spec);
  // What its server has left in memory, unless that has saved it.
  Result<void> save_left(TrackMemory memory);

  const TrackHeader& header() const { return file_.header(); }
  TrackFile& file() { return file_; }

  // Before the queues run: makes the file the device's, with the memory of a
  // server before this one if there is one; ENOENT of `find`: there is none.
  // Else with new memory, and what the file has.
  using Make = std::function<Result<TrackMemory>(const TrackHeader& header)>;
  Result<void> take(const Make& make, const Make& find = {});
  // Why all counts as changed, if the user is to know.
  const std::optional<Error>& remark() const { return remark_; }
  // When nothing is written any more, by the program neither.
  Result<void> save();

  // Of the queues: a request that may write, before its first SQE, and when it
  // is done.
  void begin(Io& io) {
    const uint8_t op = io.op();
    if (op == UBLK_IO_OP_READ || op == UBLK_IO_OP_FLUSH) return;
    begin_write(io);
  }
  void end(Io& io) {
    if (io.tracked) end_write(io);
  }

  TrackMemory& memory() { return *memory_; }

 private:
  Track(TrackFile file, std::string image_path)
      : file_(std::move(file)), image_path_(std::move(image_path)) {}
  Result<TrackedImage> image_now() const;
  Result<void> take_held(const Make& make, const Make& find);
  Result<void> begin_memory(const Make& make, bool changed);
  Result<void> save_held();
  void begin_write(Io& io);
  void end_write(Io& io);

  TrackFile file_;
  std::string image_path_;
  UniqueFd image_{};
  TrackedImage before_{};
  TrackedImage opened_{};
  std::optional<TrackMemory> memory_;
  std::optional<Error> remark_;
};

}  // namespace ublk
