// SPDX-License-Identifier: MIT
#include "layer/uuid.h"

#include <sys/random.h>

#include <cerrno>

namespace ublk {

std::string uuid_text(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt("{:02x}", uuid[i]);
  }
  return text;
}

Result<Uuid> new_uuid() {
  Uuid uuid{};
  // So few bytes come whole, or not at all.
  while (::getrandom(uuid.data(), uuid.size(), 0) < 0)
    if (errno != EINTR) return fail_sys(errno, "getrandom");
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

}  // namespace ublk
