// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ublk {

// CRC-32C (Castagnoli), as iSCSI, ext4 and btrfs have it. `so_far` is that of
// the bytes before, 0 if there are none. Our own: libraries that have it
// (libisal, libcrc32c) would be one more thing to install on every host, in
// place of these few lines.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t so_far = 0);
// The same, without the processor's instruction for it.
uint32_t crc32c_by_table(std::span<const std::byte> bytes, uint32_t so_far = 0);

}  // namespace ublk
