// SPDX-License-Identifier: MIT
#include "server/track.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "layer/track_extents.h"
#include "layer/track_format.h"
#include "layer_dir.h"

namespace ublk {
namespace {

using namespace track_format;

constexpr uint64_t kImage = 64 << 20;

class TrackFiles : public LayerDir {
 protected:
  void SetUp() override {
    LayerDir::SetUp();
    write("image", "x");
    std::filesystem::resize_file(at("image"), kImage);
  }
  TrackHeader header(uint32_t block = 65536) {
    return {.size_bytes = kImage,
            .block_bytes = block,
            .image = *TrackedImage::at(at("image"))};
  }
  TrackFile file(uint32_t block = 65536) {
    EXPECT_TRUE(TrackFile::create(at("track"), header(block), at("image")));
    auto file = TrackFile::open(at("track"), TrackFile::Use::write);
    EXPECT_TRUE(file) << file.error().line();
    return std::move(*file);
  }
  int open_error() {
    return error_of(TrackFile::open(at("track"), TrackFile::Use::look));
  }
  std::string open_text() {
    const auto file = TrackFile::open(at("track"), TrackFile::Use::look);
    return file ? "" : file.error().line();
  }
};

TrackBits bits_of(std::initializer_list<uint64_t> blocks) {
  TrackBits bits(16);
  for (const uint64_t block : blocks)
    bits[block / 64] |= uint64_t{1} << block % 64;
  return bits;
}

TEST_F(TrackFiles, HaveWhatWasPutIntoThem) {
  auto made = file();
  EXPECT_EQ(made.header().nr_blocks(), kImage / 65536);
  EXPECT_TRUE(made.header().all);
  EXPECT_EQ(*made.image_path(), at("image"));
  ASSERT_TRUE(made.add_mark("a", {}, true));
  ASSERT_TRUE(made.add_mark("", bits_of({1, 1000}), false));
  ASSERT_TRUE(made.end_use(made.header().image, bits_of({2}), false));
  const auto again = TrackFile::open(at("track"), TrackFile::Use::look);
  ASSERT_TRUE(again) << again.error().line();
  ASSERT_EQ(again->marks().size(), 2U);
  EXPECT_EQ(again->marks()[0].name, "a");
  EXPECT_EQ(again->marks()[1].name, "2");
  EXPECT_FALSE(again->header().all);
  TrackBits bits;
  EXPECT_TRUE(*again->add_period(1, bits));
  EXPECT_EQ(bits, bits_of({1, 1000}));
  EXPECT_TRUE(*again->add_period(2, bits));
  EXPECT_EQ(bits, bits_of({1, 2, 1000}));
}

TEST_F(TrackFiles, KeepTheLastMarksAndTheirPeriods) {
  auto made = file();
  for (uint64_t n = 1; n <= 40; n++)
    ASSERT_TRUE(made.add_mark(fmt("m{}", n), bits_of({n - 1}), false));
  ASSERT_EQ(made.marks().size(), kMostMarks);
  EXPECT_EQ(made.marks().front().number, 41 - kMostMarks);
  for (const TrackMark& mark : made.marks()) {
    EXPECT_EQ(mark.name, fmt("m{}", mark.number));
    if (mark.number == 40) continue;
    TrackBits bits;
    EXPECT_TRUE(*made.add_period(mark.number, bits));
    EXPECT_EQ(bits, bits_of({mark.number})) << mark.number;
  }
}

TEST_F(TrackFiles, RefuseANameThatIsThere) {
  auto made = file();
  ASSERT_TRUE(made.add_mark("a", {}, false));
  EXPECT_EQ(error_of(made.add_mark("a", {}, false)), EEXIST);
  EXPECT_EQ(made.marks().size(), 1U);
}

TEST_F(TrackFiles, SayWhatIsWrongWithThem) {
  auto made = file();
  ASSERT_TRUE(made.add_mark("a", {}, false));
  const std::string good = read("track");
  const auto with = [&](uint64_t offset, char byte) {
    std::string bad = good;
    bad[offset] = byte;
    write("track", bad);
    return open_text();
  };
  EXPECT_TRUE(with(0, 'X').contains("is not a track file"));
  EXPECT_TRUE(with(8, 7).contains("version 7"));
  EXPECT_TRUE(with(300, 1).contains("checksum is wrong"));
  EXPECT_TRUE(with(kMarksOffset + 512, 9).contains("mark 1"));
  write("track", good.substr(0, good.size() - 1));
  EXPECT_TRUE(open_text().contains("cut short"));
  write("track", good.substr(0, 100));
  EXPECT_TRUE(open_text().contains("shorter than a header"));
  write("track", good);
  EXPECT_EQ(open_error(), 0);
}

TEST_F(TrackFiles, OfSizesThatCannotBeAreRefused) {
  struct Case {
    const char* what;
    void (*change)(TrackHeader& header);
  };
  const Case cases[] = {
      {"size", [](TrackHeader& h) { h.size_bytes = 513; }},
      {"no size", [](TrackHeader& h) { h.size_bytes = 0; }},
      {"block", [](TrackHeader& h) { h.block_bytes = 5000; }},
      {"large block", [](TrackHeader& h) { h.block_bytes = 1U << 30; }},
      {"too many blocks",
       [](TrackHeader& h) {
         h.size_bytes = kMostTrackedBytes;
         h.block_bytes = 4096;
       }},
      {"marks", [](TrackHeader& h) { h.marks_offset = h.bitmap_offset; }},
      {"bitmap", [](TrackHeader& h) { h.bitmap_offset = ~uint64_t{511}; }},
      {"path", [](TrackHeader& h) { h.path.bytes = 5000; }}};
  const auto made = file();
  for (const Case& one : cases) {
    TrackHeader bad = made.header();
    one.change(bad);
    const auto decoded = decode_header(bytes_of(encode_header(bad)));
    EXPECT_EQ(error_of(decoded), EPROTO) << one.what;
  }
}

TEST_F(TrackFiles, WithADamagedBitmapCountAsChanged) {
  auto made = file();
  ASSERT_TRUE(made.add_mark("a", {}, false));
  ASSERT_TRUE(made.end_use(made.header().image, bits_of({2}), false));
  patch("track", kBitmapOffset + kSlots * kSectorBytes, "\1");
  TrackBits bits;
  EXPECT_FALSE(*made.add_period(1, bits));
}

// A slot has the bits of another period until it is written anew.
TEST_F(TrackFiles, TakeABitmapForItsOwnPeriodOnly) {
  auto made = file();
  ASSERT_TRUE(made.add_mark("a", {}, false));
  ASSERT_TRUE(made.add_mark("b", bits_of({1}), false));
  const std::string of_a =
      read("track").substr(kBitmapOffset + kSectorBytes, kSectorBytes);
  ASSERT_TRUE(made.add_mark("c", bits_of({2}), false));
  patch("track", kBitmapOffset + 2 * kSectorBytes, of_a);
  TrackBits bits;
  EXPECT_FALSE(*made.add_period(2, bits));
}

TEST_F(TrackFiles, AreLockedByOneServer) {
  auto made = file();
  auto other = *TrackFile::open(at("track"), TrackFile::Use::write);
  ASSERT_TRUE(made.lock());
  const auto refused = other.lock();
  ASSERT_EQ(error_of(refused), EBUSY);
  EXPECT_TRUE(refused.error().line().contains("in use by"));
  // The other kind of lock is not in the way.
  ASSERT_TRUE(other.hold(true));
}

TEST_F(TrackFiles, ShowExtentsOfTheDevice) {
  auto made = file();
  const auto image = UniqueFd::open(at("image"), O_RDWR);
  ASSERT_EQ(::pwrite(image->get(), "data", 4, off_t{3} * 65536), 4);
  TrackBits bits = bits_of({3, 4, 1023});
  std::vector<LayerChange> all;
  const auto done =
      for_each_tracked(made.header(), bits, false, image->get(),
                       [&](const LayerChange& change) -> Result<void> {
                         all.push_back(change);
                         return {};
                       });
  ASSERT_TRUE(done);
  uint64_t bytes = 0;
  for (const LayerChange& change : all) bytes += change.length;
  EXPECT_EQ(bytes, 3 * 65536U);
  EXPECT_EQ(tracked_bytes(made.header(), bits, false), bytes);
  EXPECT_EQ(all.front().start, 3 * 65536U);
  EXPECT_FALSE(all.front().zero);
  EXPECT_TRUE(all.back().zero);
  EXPECT_EQ(tracked_bytes(made.header(), bits, true), kImage);
}

// --- memory ---

struct Memory {
  explicit Memory(uint64_t nr_blocks)
      : words(TrackMemory::words_for(nr_blocks)), memory({}, &shared, words) {
    memory.begin(Uuid{1}, {}, false);
  }
  ublk_bpf_track shared{};
  std::vector<uint64_t> words;
  TrackMemory memory;
};

TEST(TrackMemory, MarksEachBlockOfARange) {
  Memory m(256);
  m.memory.mark(3, 1);
  m.memory.mark(62, 4);
  m.memory.mark(128, 128);
  TrackBits expected(4);
  expected[0] = uint64_t{1} << 3 | uint64_t{3} << 62;
  expected[1] = 3;
  expected[2] = expected[3] = ~uint64_t{0};
  EXPECT_EQ(m.memory.bits(), expected);
}

TEST(TrackMemory, BeginsAPeriodInFourSteps) {
  Memory m(64);
  m.memory.mark(1, 1);
  m.memory.only_current();
  m.memory.clear_next();
  m.memory.mark(2, 1);
  m.memory.both();
  m.memory.mark(3, 1);
  EXPECT_EQ(m.memory.bits()[0], 0b1110U);
  m.memory.go_to_next();
  m.memory.mark(4, 1);
  EXPECT_EQ(m.memory.bits()[0], 0b11000U);
  EXPECT_EQ(m.words[0], 0b1110U);
}

// Of requests that are counted, marked and done while marks are made: each is
// in the period that had begun when it was done.
TEST(TrackMemory, LosesNothingWhileMarksAreMade) {
  // Each thread has many words of its own: it takes long to mark them after it
  // has looked at what is active.
  constexpr uint64_t kOwn = uint64_t{16} * 1024;
  constexpr uint64_t kBlocks = 3 * kOwn;
  constexpr uint64_t kMarks = 60;
  Memory m(kBlocks);
  std::atomic<uint64_t> period = 0;
  std::atomic<uint64_t> requests = 0;
  std::atomic<bool> stop = false;
  std::vector<std::vector<std::set<uint64_t>>> written(
      3, std::vector<std::set<uint64_t>>(kMarks + 1));
  std::vector<std::thread> threads;
  for (size_t t = 0; t < written.size(); t++)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      while (!stop) {
        const uint64_t first = t * kOwn;
        const uint64_t block = first + random() % kOwn;
        const uint8_t turn = m.memory.begin_request();
        m.memory.mark(first, block - first + 1);
        // It is not done yet in this one.
        written[t][period.load()].insert(block);
        m.memory.end_request(turn);
        requests++;
      }
    });
  const auto drain = [&] {
    for (int half = 0; half < 2; half++)
      for (uint64_t* count = m.memory.turn(); TrackMemory::count(count);)
        std::this_thread::yield();
  };
  std::vector<TrackBits> ended;
  for (uint64_t n = 0; n < kMarks; n++) {
    // At any point of some request.
    const uint64_t until = requests + 4 + n % 8;
    while (requests < until) std::this_thread::yield();
    m.memory.only_current();
    drain();
    m.memory.clear_next();
    drain();
    m.memory.both();
    drain();
    m.memory.go_to_next();
    // All that is done from here on is in it; what is in the one before is
    // complete once those that have seen both are done.
    period++;
    const uint64_t before = m.shared.current ^ 1;
    drain();
    TrackBits bits(kBlocks / 64);
    for (size_t i = 0; i < bits.size(); i++)
      bits[i] = std::atomic_ref(m.words[2 * i + before]).load();
    ended.push_back(bits);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  ended.push_back(m.memory.bits());
  for (const auto& of_thread : written)
    for (uint64_t n = 0; n < ended.size(); n++)
      for (const uint64_t block : of_thread[n])
        ASSERT_TRUE(ended[n][block / 64] >> block % 64 & 1) << n;
}

// --- with a target ---

class TrackedTarget : public TrackFiles {
 protected:
  Target target() {
    TargetSpec spec;
    spec.type = "loop";
    spec.files = {at("image")};
    spec.max_io_bytes = 1 << 20;
    spec.track = at("track");
    auto target = open_target(spec);
    EXPECT_TRUE(target) << target.error().line();
    return std::move(*target);
  }
  Track::Make make() {
    return [this](const TrackHeader& header) -> Result<TrackMemory> {
      words_.assign(TrackMemory::words_for(header.nr_blocks()), 0);
      return TrackMemory({}, &shared_, words_);
    };
  }
  Track::Make find() {
    return [this](const TrackHeader&) -> Result<TrackMemory> {
      if (words_.empty()) return fail(ENOENT, "gone");
      return TrackMemory({}, &shared_, words_);
    };
  }
  ublk_bpf_track shared_{};
  std::vector<uint64_t> words_;
};

// One of the loop target, from its start to its end.
void write_block(const Target& target, uint64_t block, uint8_t op = 1) {
  ublksrv_io_desc desc{};
  desc.op_flags = op;
  desc.start_sector = block * 128;
  desc.nr_sectors = 8;
  Io io;
  io.desc = &desc;
  io_uring_sqe sqe{};
  EXPECT_FALSE(target.ops->start(target, io, &sqe));
  EXPECT_EQ(target.ops->done(target, io, op == 1 ? 4096 : 0, &sqe).value_or(-1),
            op == 1 ? 4096 : 0);
}

uint64_t first_word(const Target& target) {
  return target.track->memory().bits()[0];
}

void make_mark(Target& target, const TrackBits& bits = {}) {
  TrackMemory& memory = target.track->memory();
  ASSERT_TRUE(target.track->file().add_mark("", bits, memory.all()));
  memory.clear_next();
  memory.go_to_next();
}

TEST_F(TrackedTarget, MarksWhatIsChangedAndCountsItDown) {
  Target loop = target();
  ASSERT_TRUE(loop.track->take(make()));
  write_block(loop, 1, UBLK_IO_OP_WRITE);
  write_block(loop, 2, UBLK_IO_OP_DISCARD);
  write_block(loop, 3, UBLK_IO_OP_WRITE_ZEROES);
  write_block(loop, 4, UBLK_IO_OP_FLUSH);
  EXPECT_EQ(first_word(loop), 0b1110U);
  EXPECT_EQ(shared_.in_flight[0] + shared_.in_flight[1], 0U);
}

TEST_F(TrackedTarget, KeepsWhatIsSaved) {
  {
    Target loop = target();
    ASSERT_TRUE(loop.track->take(make()));
    EXPECT_TRUE(loop.track->memory().all());
    EXPECT_FALSE(loop.track->remark());
    make_mark(loop);
    write_block(loop, 5);
    ASSERT_TRUE(loop.track->save());
  }
  Target loop = target();
  ASSERT_TRUE(loop.track->take(make()));
  EXPECT_FALSE(loop.track->memory().all());
  EXPECT_EQ(first_word(loop), 1U << 5);
}

TEST_F(TrackedTarget, CountsAllAsChangedThatWasNotSaved) {
  {
    Target loop = target();
    ASSERT_TRUE(loop.track->take(make()));
    make_mark(loop);
  }
  Target loop = target();
  ASSERT_TRUE(loop.track->take(make()));
  EXPECT_TRUE(loop.track->memory().all());
  ASSERT_TRUE(loop.track->remark());
  EXPECT_TRUE(loop.track->remark()->line().contains("all counts as changed"));
}

TEST_F(TrackedTarget, CountsAllAsChangedThatSomebodyElseWroteTo) {
  {
    Target loop = target();
    ASSERT_TRUE(loop.track->take(make()));
    make_mark(loop);
    ASSERT_TRUE(loop.track->save());
  }
  std::filesystem::last_write_time(
      at("image"),
      std::filesystem::file_time_type::clock::now() + std::chrono::seconds(1));
  Target loop = target();
  ASSERT_TRUE(loop.track->take(make()));
  EXPECT_TRUE(loop.track->memory().all());
}

TEST_F(TrackedTarget, GoesOnWithWhatAServerHasLeft) {
  {
    Target loop = target();
    ASSERT_TRUE(loop.track->take(make()));
    make_mark(loop);
    write_block(loop, 5);
    shared_.in_flight[1] = 3;
  }
  Target loop = target();
  ASSERT_TRUE(loop.track->take(make(), find()));
  EXPECT_FALSE(loop.track->memory().all());
  EXPECT_EQ(first_word(loop), 1U << 5);
  EXPECT_EQ(shared_.in_flight[1], 0U);
  // And without it.
  loop = {};
  words_.clear();
  loop = target();
  ASSERT_TRUE(loop.track->take(make(), find()));
  EXPECT_TRUE(loop.track->memory().all());
}

TEST_F(TrackedTarget, IsNotThatOfAnotherImage) {
  {
    Target loop = target();
  }
  write("image.new", "x");
  std::filesystem::resize_file(at("image.new"), kImage);
  std::filesystem::rename(at("image.new"), at("image"));
  TargetSpec spec;
  spec.type = "loop";
  spec.files = {at("image")};
  spec.track = at("track");
  EXPECT_EQ(error_of(open_target(spec)), ESTALE);
}

TEST_F(TrackedTarget, IsSavedAfterItsServerByWhoeverComes) {
  Target loop = target();
  ASSERT_TRUE(loop.track->take(make()));
  make_mark(loop);
  write_block(loop, 5);
  const TargetSpec spec = loop.spec;
  loop = {};
  auto left = Track::open_left(spec);
  ASSERT_TRUE(left) << left.error().line();
  ASSERT_TRUE((*left)->save_left(*find()({})));
  left->reset();
  const auto file = TrackFile::open(at("track"), TrackFile::Use::look);
  TrackBits bits;
  EXPECT_FALSE(file->header().in_use);
  EXPECT_TRUE(*file->add_period(1, bits));
  EXPECT_EQ(bits[0], 1U << 5);
}

}  // namespace
}  // namespace ublk
