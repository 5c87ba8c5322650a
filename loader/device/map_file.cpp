// SPDX-License-Identifier: MIT
#include "device/map_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace ublk {

namespace {

bool is_map_of(const MapFileKind& kind, const MapFileHeader& header) {
  const std::string_view magic(header.magic, sizeof(header.magic));
  return magic.starts_with(kind.magic) && magic.find('\0') == kind.magic.size();
}

// The file's memory is there from the beginning: what a full file system cannot
// give later would end the server.
Result<void> make_room(int fd, uint64_t bytes) {
  int code = 0;
  do {
    code = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  } while (code == EINTR);
  if (code) return fail_sys(code, "{} bytes for the map", bytes);
  return {};
}

}  // namespace

MapFileHeader map_file_header(const MapFileKind& kind, const Uuid& of,
                              uint64_t nr_blocks, uint32_t block_bytes,
                              uint64_t words) {
  MapFileHeader header{};
  std::ranges::copy(kind.magic, header.magic);
  header.version = kMapVersion;
  static_assert(sizeof(header.of) == sizeof(of));
  std::memcpy(header.of, of.data(), sizeof(header.of));
  header.nr_blocks = nr_blocks;
  header.block_bytes = block_bytes;
  header.words = words;
  return header;
}

Result<void> check_map_header(const MapFileKind& kind, MapFileHeader header,
                              const MapFileHeader& wanted) {
  header.saved = wanted.saved;
  if (std::memcmp(&header, &wanted, sizeof(header)) == 0) return {};
  if (!is_map_of(kind, header)) return fail(EPROTO, "is not {}", kind.what);
  if (header.version != wanted.version)
    return std::unexpected(
        Error::plain(EPROTO, fmt("has version {}, this program knows {}",
                                 header.version, wanted.version))
            .hint("use the ublk-bpf that served the device before"));
  return fail(EPROTO, "is {}", kind.other);
}

Result<MapFile> map_words(const MapFileKind& kind, const UniqueFd& fd,
                          const MapFileHeader& wanted, bool fresh) {
  const uint64_t bytes = kMapHeaderBytes + wanted.words * sizeof(uint64_t);
  if (fresh) TRY(make_room(fd.get(), bytes));
  const off_t has = ::lseek(fd.get(), 0, SEEK_END);
  if (has < 0) return fail_sys(errno, "looking at it");
  if (static_cast<uint64_t>(has) < bytes)
    return fail(EPROTO, "is cut short: has {} bytes of {}", has, bytes);
  MapFile map;
  map.region = TRY(MmapRegion::shared(fd.get(), bytes));
  auto* header = reinterpret_cast<MapFileHeader*>(map.region.data());
  if (fresh)
    *header = wanted;
  else
    TRY(check_map_header(kind, *header, wanted));
  map.words = {reinterpret_cast<uint64_t*>(map.region.data() + kMapHeaderBytes),
               wanted.words};
  map.note = [header](bool saved) {
    std::atomic_ref(header->saved).store(saved);
  };
  return map;
}

Result<UniqueFd> new_map_file(const StateStore& states, uint32_t dev_id) {
  const std::string name = map_file_name(dev_id);
  TRY(states.remove_file(name));
  return states.open_file(name, O_RDWR | O_CREAT | O_EXCL);
}

Result<UniqueFd> old_map_file(const MapFileKind& kind, const StateStore& states,
                              uint32_t dev_id) {
  auto fd = states.open_file(map_file_name(dev_id), O_RDWR);
  if (!fd && fd.error().code() == ENOENT)
    return std::unexpected(std::move(fd).error().hint(kind.lost));
  return fd;
}

std::optional<MapFileHeader> read_map_header(const UniqueFd& fd) {
  MapFileHeader header{};
  if (::pread(fd.get(), &header, sizeof(header), 0) !=
      static_cast<ssize_t>(sizeof(header)))
    return std::nullopt;
  return header;
}

bool is_map_saved(const UniqueFd& fd) {
  const auto header = read_map_header(fd);
  return header && header->saved;
}

}  // namespace ublk
