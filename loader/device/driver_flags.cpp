// SPDX-License-Identifier: MIT
#include "device/driver_flags.h"

#include <cerrno>

#include "sys/ublk_cmd.h"

namespace ublk {

namespace {

struct Wanted {
  uint64_t flag;
  const char* what;
  const char* needs;
  const char* hint;
};

constexpr Wanted kWanted[] = {
    {UBLK_F_USER_RECOVERY, "recovery",
     "UBLK_F_USER_RECOVERY of ublk_drv (linux 6.1 and later)", "without -r"},
    {UBLK_F_USER_RECOVERY_REISSUE, "recovery reissue",
     "UBLK_F_USER_RECOVERY_REISSUE of ublk_drv (linux 6.1 and later)",
     "without -i"},
    {UBLK_F_USER_RECOVERY_FAIL_IO, "recovery fail_io",
     "UBLK_F_USER_RECOVERY_FAIL_IO of ublk_drv (linux 6.13 and later)",
     "without -e I/O waits for the next server"},
    {UBLK_F_NO_AUTO_PART_SCAN, "no partition scan",
     "UBLK_F_NO_AUTO_PART_SCAN of ublk_drv", "without --no-part-scan"},
};

}  // namespace

Result<void> check_wanted(uint64_t wanted, uint64_t flags) {
  for (const Wanted& one : kWanted)
    if (wanted & ~flags & one.flag)
      return std::unexpected(
          Error::plain(EOPNOTSUPP, fmt("{}: this kernel lacks it: needs {}",
                                       one.what, one.needs))
              .hint(one.hint));
  return {};
}

}  // namespace ublk
