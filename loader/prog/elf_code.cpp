// SPDX-License-Identifier: MIT
#include "prog/elf_code.h"

#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>

#include "prog/object.h"

namespace ublk {

namespace {

using Bytes = std::vector<char>;

// `count` of them from `offset` on; none if the file does not have them.
template <typename T>
std::vector<T> records(const Bytes& file, uint64_t offset, uint64_t count) {
  if (offset > file.size() || count > (file.size() - offset) / sizeof(T))
    return {};
  std::vector<T> found(count);
  if (count) std::memcpy(found.data(), file.data() + offset, count * sizeof(T));
  return found;
}

template <typename T>
std::vector<T> records(const Bytes& file, const Elf64_Shdr& section) {
  return records<T>(file, section.sh_offset, section.sh_size / sizeof(T));
}

std::string text_at(const Bytes& texts, uint64_t offset) {
  if (offset >= texts.size()) return {};
  const auto begin = texts.begin() + static_cast<ptrdiff_t>(offset);
  return {begin, std::find(begin, texts.end(), '\0')};
}

bool is_pseudo_call(const bpf_insn& insn) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_CALL;
}

bool is_address(const bpf_insn& insn) {
  return insn.code == (BPF_LD | BPF_IMM | BPF_DW);
}

}  // namespace

Result<ElfCode> ElfCode::read(const std::string& path) {
  TRY(check_object_file(path));
  std::ifstream in(path, std::ios::binary);
  const Bytes file((std::istreambuf_iterator<char>(in)), {});
  const auto headers = records<Elf64_Ehdr>(file, 0, 1);
  if (headers.empty() || headers[0].e_ident[EI_DATA] != ELFDATA2LSB)
    return fail(ENOEXEC, "{}: is not a little-endian ELF file", path);
  const auto sections =
      records<Elf64_Shdr>(file, headers[0].e_shoff, headers[0].e_shnum);
  ElfCode code;
  code.path_ = path;
  for (uint32_t i = 0; i < sections.size(); i++) {
    const Elf64_Shdr& section = sections[i];
    if (section.sh_type == SHT_PROGBITS && section.sh_flags & SHF_EXECINSTR)
      code.code_[i] = records<bpf_insn>(file, section);
    if (section.sh_type == SHT_REL)
      for (const auto& rel : records<Elf64_Rel>(file, section))
        code.references_[section.sh_info].push_back(
            {.offset = rel.r_offset,
             .symbol = static_cast<uint32_t>(ELF64_R_SYM(rel.r_info))});
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size())
      continue;
    const auto texts = records<char>(file, sections[section.sh_link]);
    for (const auto& symbol : records<Elf64_Sym>(file, section))
      code.symbols_.push_back(
          {.name = text_at(texts, symbol.st_name),
           .type = static_cast<uint8_t>(ELF64_ST_TYPE(symbol.st_info)),
           .section = symbol.st_shndx,
           .value = symbol.st_value,
           .size = symbol.st_size});
  }
  return code;
}

std::optional<ElfCode::Place> ElfCode::find(std::string_view function) const {
  for (const Symbol& symbol : symbols_)
    if (symbol.type == STT_FUNC && symbol.name == function)
      return Place{
          .section = symbol.section,
          .index = static_cast<uint32_t>(symbol.value / sizeof(bpf_insn))};
  return std::nullopt;
}

Result<ElfCode::Function> ElfCode::function(Place at) const {
  const auto code = code_.find(at.section);
  for (const Symbol& symbol : symbols_) {
    if (symbol.type != STT_FUNC || symbol.section != at.section ||
        symbol.value != uint64_t{at.index} * sizeof(bpf_insn))
      continue;
    const uint64_t count = symbol.size / sizeof(bpf_insn);
    if (code == code_.end() || count == 0 || at.index > code->second.size() ||
        count > code->second.size() - at.index)
      break;
    const auto begin = code->second.begin() + at.index;
    Function found{.at = at,
                   .insns = {begin, begin + static_cast<ptrdiff_t>(count)}};
    put_references(found);
    return found;
  }
  return fail(ENOEXEC, "{}: section {} does not have a function at {}", path_,
              at.section, at.index);
}

void ElfCode::put_references(Function& function) const {
  // Calls inside a section need no relocation.
  for (uint32_t i = 0; i < function.insns.size(); i++)
    if (is_pseudo_call(function.insns[i]))
      function.inside[i] = {
          .section = function.at.section,
          .index = function.at.index + i + 1 +
                   static_cast<uint32_t>(function.insns[i].imm)};
  const auto references = references_.find(function.at.section);
  if (references == references_.end()) return;
  for (const auto& [offset, symbol_index] : references->second) {
    const uint64_t index = offset / sizeof(bpf_insn);
    if (index < function.at.index || symbol_index >= symbols_.size() ||
        index - function.at.index >= function.insns.size())
      continue;
    const auto i = static_cast<uint32_t>(index - function.at.index);
    const bpf_insn& insn = function.insns[i];
    const Symbol& symbol = symbols_[symbol_index];
    if (is_address(insn)) function.addresses.insert(i);
    if (symbol.section == SHN_UNDEF) {
      function.inside.erase(i);
      function.outside[i] = symbol.name;
    } else if (code_.contains(symbol.section)) {
      // Of a section, the instruction says where in it.
      uint64_t to = symbol.value / sizeof(bpf_insn);
      if (symbol.type == STT_SECTION)
        to += is_address(insn)
                  ? static_cast<uint32_t>(insn.imm) / sizeof(bpf_insn)
                  : static_cast<uint32_t>(insn.imm + 1);
      function.inside[i] = {.section = symbol.section,
                            .index = static_cast<uint32_t>(to)};
    }
  }
}

}  // namespace ublk
