# SPDX-License-Identifier: MIT
# Debian 13's own kernel headers are older than the driver flags in use.
include(CheckCXXSymbolExists)
check_cxx_symbol_exists(UBLK_F_IO_DESC_SIZE "linux/types.h;linux/ublk_cmd.h"
  HAVE_CURRENT_UBLK_CMD_H)
if(NOT HAVE_CURRENT_UBLK_CMD_H)
  message(FATAL_ERROR
    "<linux/ublk_cmd.h> is too old: install linux-libc-dev of trixie-backports "
    "(7.3), or build in the build root: scripts/in-root")
endif()
