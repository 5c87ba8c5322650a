// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace ublk {

// Which blocks of a layer are present, in memory: bit N % 64 of word N / 64.
// A bit goes from 0 to 1 once and never back. Other threads may set bits at any
// time, and so may the kernel's program if the memory is a BPF map's. What the
// disk lacks is noted per sector of the bitmap on disk ("unsaved"): bit S % 64
// of unsaved word S / 64, where S is block / kSectorBits.
//
// Who sets a bit, sets the present bit first and the unsaved bit after it, each
// with an atomic operation that is a full barrier (in BPF: one that fetches,
// others order nothing); who saves, takes the unsaved bits away first and reads
// the present bits after it. So either the save sees the present bit, or the
// unsaved bit is set after it was taken away and stays for the next save; the
// other way round a save could take the mark and miss the bit.
class BlockMap {
 public:
  // Bits that one 512-byte sector of the bitmap on disk has.
  static constexpr uint64_t kSectorWords = 63;
  static constexpr uint64_t kSectorBits = kSectorWords * 64;
  using SectorBits = std::array<uint64_t, kSectorWords>;

  // Both of them borrowed, zeroed, and as large as words_for() and
  // unsaved_words_for() say.
  BlockMap(uint64_t nr_blocks, std::span<uint64_t> present,
           std::span<uint64_t> unsaved);
  static uint64_t words_for(uint64_t nr_blocks);
  static uint64_t unsaved_words_for(uint64_t nr_blocks);
  static uint64_t sectors_for(uint64_t nr_blocks);

  uint64_t nr_blocks() const { return nr_blocks_; }
  // Of a map that nobody changes.
  std::span<const uint64_t> present_words() const { return present_; }
  bool present(uint64_t block) const;
  // The number of blocks from `first` on, at most `most`, that are all present
  // or all absent as the first one is. 0 at the disk's end.
  uint64_t run(uint64_t first, uint64_t most) const;
  // Makes blocks visible whose data is in the file already, and notes that the
  // disk does not know. What is beyond the disk's end is left out.
  void set(uint64_t first, uint64_t count);
  // How many blocks are present.
  uint64_t count() const;
  // Whether a save has something to write.
  bool unsaved() const;

  // For those who read and write the bitmap on disk.

  // Takes all unsaved marks away: the numbers of their sectors, ascending.
  std::vector<uint64_t> take_unsaved();
  void mark_unsaved(uint64_t sector);
  // Without what is beyond the disk's end.
  SectorBits sector_bits(uint64_t sector) const;
  // Those of the disk, into memory that is zeroed and that nobody else has yet.
  void load_saved(uint64_t sector, const SectorBits& on_disk);
  // Into memory that others have: makes those of the disk visible, and what is
  // there and not on the disk is unsaved.
  void merge_saved(uint64_t sector, const SectorBits& on_disk);

 private:
  uint64_t word(uint64_t index) const;
  // Those that a sector of the file has.
  std::span<uint64_t> words_of(uint64_t sector);

  uint64_t nr_blocks_;
  std::span<uint64_t> present_;
  std::span<uint64_t> unsaved_;
};

}  // namespace ublk
