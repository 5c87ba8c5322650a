// SPDX-License-Identifier: MIT
//
// unseal LAYER: makes a sealed layer one that is not, as it was just before the
// last step of a snapshot.

#include <fcntl.h>

#include <cstdio>

#include "layer/layer_file.h"
#include "sys/unique_fd.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  using namespace ublk;
  const auto fd = UniqueFd::open(argv[1], O_RDWR);
  if (!fd) return 1;
  const auto done = layer_format::change_header(
      fd->get(), [](layer_format::HeaderSector& sector) {
        sector.read_only = sector.read_only & ~layer_format::kSealed;
      });
  if (!done) std::fprintf(stderr, "%s\n", done.error().line().c_str());
  return done ? 0 : 1;
}
