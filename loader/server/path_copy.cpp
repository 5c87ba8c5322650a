// SPDX-License-Identifier: MIT
//
// copy: the driver copies a WRITE's data into the tag's memory before it
// delivers the request, and a READ's out of it when the result is committed.

#include "server/data_path.h"

namespace ublk {

namespace {

void init_tag(Io& io) { io.command_addr = reinterpret_cast<uintptr_t>(io.buf); }

}  // namespace

const DataPath kCopyPath = {
    .name = "copy",
    .summary = "the driver copies to and from the server's memory",
    .flags = 0,
    .needs = "any ublk_drv",
    .has_buffers = true,
    .has_table = false,
    .sqes_per_tag = 1,
    .resumes_reads = true,
    .init_tag = init_tag,
    .deliver = nullptr,
    .issue = nullptr,
    .finish = nullptr,
};

}  // namespace ublk
