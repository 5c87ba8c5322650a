// SPDX-License-Identifier: MIT
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "sys/error.h"

namespace ublk {

// Instructions of an object file as the compiler left them: nothing is loaded,
// and no kernel is asked.
class ElfCode {
 public:
  // A place in the code: instruction `index` of a section.
  struct Place {
    uint32_t section = 0;
    uint32_t index = 0;
    auto operator<=>(const Place&) const = default;
  };
  struct Function {
    Place at;
    std::vector<bpf_insn> insns{};
    // By index: what is called there that is not in this object.
    std::map<uint32_t, std::string> outside{};
    // By index: which function of this object is called there, or has its
    // address taken.
    std::map<uint32_t, Place> inside{};
    // By index: constants that are addresses, known only when it is loaded.
    std::set<uint32_t> addresses{};
  };

  // ENOEXEC: is not a little-endian ELF file, or is damaged.
  static Result<ElfCode> read(const std::string& path);

  std::optional<Place> find(std::string_view function) const;
  // ENOEXEC: there is not a function there.
  Result<Function> function(Place at) const;

 private:
  struct Symbol {
    std::string name;
    uint8_t type = 0;
    uint32_t section = 0;
    uint64_t value = 0;
    uint64_t size = 0;
  };
  struct Reference {
    uint64_t offset = 0;
    uint32_t symbol = 0;
  };

  void put_references(Function& function) const;

  std::string path_;
  std::map<uint32_t, std::vector<bpf_insn>> code_;  // by section
  std::vector<Symbol> symbols_;
  std::map<uint32_t, std::vector<Reference>> references_;  // by section
};

}  // namespace ublk
