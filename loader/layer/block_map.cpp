// SPDX-License-Identifier: MIT
#include "layer/block_map.h"

#include <algorithm>
#include <atomic>
#include <bit>

namespace ublk {

namespace {

constexpr uint64_t kWordBits = 64;

constexpr uint64_t div_up(uint64_t n, uint64_t by) {
  return n / by + (n % by != 0);
}

// All are sequentially consistent, as the header's argument needs it.
std::atomic_ref<uint64_t> at(std::span<uint64_t> words, uint64_t index) {
  return std::atomic_ref(words[index]);
}

// The bits [from, to) of a word; 0 <= from < to <= 64.
constexpr uint64_t bits_between(uint64_t from, uint64_t to) {
  return ~uint64_t{0} >> (kWordBits - (to - from)) << from;
}

}  // namespace

BlockMap::BlockMap(uint64_t nr_blocks, std::span<uint64_t> present,
                   std::span<uint64_t> unsaved)
    : nr_blocks_(nr_blocks), present_(present), unsaved_(unsaved) {}

uint64_t BlockMap::words_for(uint64_t nr_blocks) {
  return div_up(nr_blocks, kWordBits);
}

uint64_t BlockMap::sectors_for(uint64_t nr_blocks) {
  return div_up(nr_blocks, kSectorBits);
}

uint64_t BlockMap::unsaved_words_for(uint64_t nr_blocks) {
  return div_up(sectors_for(nr_blocks), kWordBits);
}

uint64_t BlockMap::word(uint64_t index) const {
  const uint64_t bits = at(present_, index).load();
  const uint64_t first = index * kWordBits;
  return nr_blocks_ - first >= kWordBits
             ? bits
             : bits & bits_between(0, nr_blocks_ - first);
}

bool BlockMap::present(uint64_t block) const {
  return block < nr_blocks_ &&
         (word(block / kWordBits) >> block % kWordBits & 1) != 0;
}

uint64_t BlockMap::run(uint64_t first, uint64_t most) const {
  if (first >= nr_blocks_) return 0;
  most = std::min(most, nr_blocks_ - first);
  const bool is_present = present(first);
  uint64_t count = 0;
  while (count < most) {
    const uint64_t block = first + count;
    const uint64_t shift = block % kWordBits;
    const uint64_t bits = word(block / kWordBits);
    const uint64_t same = is_present ? bits : ~bits;
    const uint64_t here = std::min<uint64_t>(
        static_cast<uint64_t>(std::countr_one(same >> shift)),
        kWordBits - shift);
    count += here;
    if (here < kWordBits - shift) break;
  }
  return std::min(count, most);
}

void BlockMap::set(uint64_t first, uint64_t count) {
  if (first >= nr_blocks_) return;
  const uint64_t end = first + std::min(count, nr_blocks_ - first);
  for (uint64_t block = first; block < end;) {
    const uint64_t sector = block / kSectorBits;
    const uint64_t sector_end = std::min(end, (sector + 1) * kSectorBits);
    while (block < sector_end) {
      const uint64_t index = block / kWordBits;
      const uint64_t to = std::min((index + 1) * kWordBits, sector_end);
      at(present_, index)
          .fetch_or(bits_between(block % kWordBits, to - index * kWordBits));
      block = to;
    }
    mark_unsaved(sector);
  }
}

uint64_t BlockMap::count() const {
  uint64_t count = 0;
  for (uint64_t i = 0; i < words_for(nr_blocks_); i++)
    count += static_cast<uint64_t>(std::popcount(word(i)));
  return count;
}

bool BlockMap::unsaved() const {
  for (uint64_t i = 0; i < unsaved_words_for(nr_blocks_); i++)
    if (at(unsaved_, i).load()) return true;
  return false;
}

std::vector<uint64_t> BlockMap::take_unsaved() {
  std::vector<uint64_t> sectors;
  for (uint64_t i = 0; i < unsaved_words_for(nr_blocks_); i++) {
    if (!at(unsaved_, i).load()) continue;
    for (uint64_t bits = at(unsaved_, i).exchange(0); bits; bits &= bits - 1) {
      const uint64_t sector =
          i * kWordBits + static_cast<uint64_t>(std::countr_zero(bits));
      if (sector < sectors_for(nr_blocks_)) sectors.push_back(sector);
    }
  }
  return sectors;
}

void BlockMap::mark_unsaved(uint64_t sector) {
  const uint64_t bit = uint64_t{1} << sector % kWordBits;
  // Mostly it is set already. To look first is right as the present bit was
  // set with a full barrier: a mark that is seen here is taken after that.
  if (auto word = at(unsaved_, sector / kWordBits); !(word.load() & bit))
    word.fetch_or(bit);
}

BlockMap::SectorBits BlockMap::sector_bits(uint64_t sector) const {
  SectorBits bits{};
  const uint64_t first = sector * kSectorWords;
  const uint64_t words = words_for(nr_blocks_);
  for (uint64_t i = 0; i < kSectorWords && first + i < words; i++)
    bits[i] = word(first + i);
  return bits;
}

std::span<uint64_t> BlockMap::words_of(uint64_t sector) {
  const uint64_t first = sector * kSectorWords;
  return present_.subspan(
      first, std::min(kSectorWords, words_for(nr_blocks_) - first));
}

void BlockMap::load_saved(uint64_t sector, const SectorBits& on_disk) {
  // Atomic operations would be most of what opening a layer takes.
  const std::span<uint64_t> words = words_of(sector);
  std::ranges::copy_n(on_disk.begin(), static_cast<int64_t>(words.size()),
                      words.begin());
}

void BlockMap::merge_saved(uint64_t sector, const SectorBits& on_disk) {
  const uint64_t first = sector * kSectorWords;
  const std::span<uint64_t> words = words_of(sector);
  bool more = false;
  for (uint64_t i = 0; i < words.size(); i++) {
    if (at(words, i).load() == on_disk[i]) continue;
    const uint64_t here = word(first + i);
    more |= (here & ~on_disk[i]) != 0;
    if (on_disk[i] & ~here) at(words, i).fetch_or(on_disk[i]);
  }
  if (more) mark_unsaved(sector);
}

}  // namespace ublk
