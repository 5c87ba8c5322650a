// SPDX-License-Identifier: MIT
//
// new: a program to begin with, what builds it, and what tests it.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "cli/author_commands.h"
#include "cli/command_line.h"
#include "cli/json.h"
#include "cli/output.h"
#include "sys/names.h"
#include "sys/text_file.h"

namespace ublk::cli {

namespace {

constexpr std::string_view kProgram =
    R"text(// SPDX-License-Identifier: GPL-2.0
//
// @NAME@: reads and writes go to the device's file, from `offset` on; what is neither is the server's.
@INCLUDE@ <ublk/sqe.bpf.h>

/* A knob: attach --set offset=1M */
const volatile __u64 offset = 0;

/* A map: how many requests it has seen, by operation. bpftool map dump name seen */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

UBLK_BPF(@NAME@)
{
	__u64 off = ublk_bpf_start_bytes(ctx);
	__u32 len = ublk_bpf_len_bytes(ctx);
	__u32 op = ctx->op;
	__u64 *count = bpf_map_lookup_elem(&seen, &op);

	if (count)
		__sync_fetch_and_add(count, 1);
	if (op == UBLK_IO_OP_READ || op == UBLK_IO_OP_WRITE)
		ublk_bpf_queue_rw(ctx, 0, offset + off, 0, len);
	else if (op == UBLK_IO_OP_FLUSH)
		ublk_bpf_queue_fsync(ctx, 0);
	else
		return UBLK_BPF_IO_PASS;
	return UBLK_BPF_IO_REDIRECT;
}

char _license[] SEC("license") = "GPL";
)text";

constexpr std::string_view kMakefile =
    R"text(# SPDX-License-Identifier: MIT
# make; make check (the verifier); make test (as root: a device, I/O through it)
UBLK_BPF ?= $(firstword $(patsubst %/Makefile.bpf,%,$(wildcard /usr/share/ublk-bpf/Makefile.bpf /usr/local/share/ublk-bpf/Makefile.bpf)))

@NAME@.bpf.o: @NAME@.bpf.c
	$(if $(UBLK_BPF),,$(error install libublkbpf-dev, or pass UBLK_BPF=directory of Makefile.bpf))
	@$(MAKE) --no-print-directory -f $(UBLK_BPF)/Makefile.bpf $@

check: @NAME@.bpf.o
	ublk-bpf check $<

test: @NAME@.bpf.o
	./test.sh

clean:
	rm -f @NAME@.bpf.o @NAME@.bpf.d

.PHONY: check test clean
)text";

constexpr std::string_view kTest =
    R"text(#!/bin/sh
# SPDX-License-Identifier: MIT
# What was written through the program is in the file, and the program did it.
set -eu
cd "$(dirname "$0")"
image=$(mktemp)
truncate -s 16M "$image"
device=$(ublk-bpf add -t loop -f "$image" --show)
trap 'ublk-bpf del -n "$device"; rm -f "$image" "$image.data"' EXIT
ublk-bpf attach -n "$device" @NAME@.bpf.o
head -c 1M /dev/urandom >"$image.data"
dd if="$image.data" of="$device" bs=64K oflag=direct conv=fsync status=none
dd if="$device" bs=64K count=16 iflag=direct status=none | cmp - "$image.data"
cmp -n 1048576 "$image" "$image.data"
ublk-bpf list -v -n "$device" | grep -q 'redirected [1-9]' || { echo "the program did nothing" >&2; exit 1; }
echo "passed"
)text";

// A name in C, and a file's.
Result<void> check_name(const std::string& name) {
  const auto is_good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (c >= '0' && c <= '9');
  };
  const bool good = !name.empty() && name.size() <= 32 &&
                    !(name[0] >= '0' && name[0] <= '9') &&
                    std::ranges::all_of(name, is_good);
  if (good) return {};
  return fail(EINVAL,
              "'{}': is not a name for a program: it has 1 to 32 letters, "
              "digits and _, and does not begin with a digit",
              shown_name(name));
}

std::string replaced(std::string text, std::string_view place,
                     std::string_view by) {
  for (size_t at = 0; (at = text.find(place, at)) != std::string::npos;
       at += by.size())
    text.replace(at, place.size(), by);
  return text;
}

std::string filled_in(std::string_view text, const std::string& name) {
  // What this program includes is not what that one does.
  return replaced(replaced(std::string(text), "@NAME@", name), "@INCLUDE@",
                  "#include");
}

Result<std::vector<std::string>> write_new(const std::string& name) {
  TRY(check_name(name));
  // What is there already may be somebody's work.
  if (::mkdir(name.c_str(), 0777) != 0)
    return fail_sys(errno, "{}: mkdir", name);
  const UniqueFd dir = TRY(UniqueFd::open(name, O_RDONLY | O_DIRECTORY));
  const std::pair<std::string, std::string_view> files[] = {
      {name + ".bpf.c", kProgram}, {"Makefile", kMakefile}, {"test.sh", kTest}};
  std::vector<std::string> written;
  for (const auto& [file, text] : files) {
    TRY_IN(name, replace_text_at(dir.get(), file, filled_in(text, name)));
    written.push_back(name + "/" + file);
  }
  if (::fchmodat(dir.get(), "test.sh", 0755, 0) != 0)
    return fail_sys(errno, "{}/test.sh: chmod", name);
  return written;
}

}  // namespace

void define_new(Arguments& command, Options& options) {
  command.text("name", options.attach.program, "NAME",
               "the program's, and the new directory's", true);
  command.footer(
      "Writes NAME/NAME.bpf.c, a program with a knob and a map that serves "
      "reads and writes from the device's file, a Makefile and a test. make "
      "builds it, make check has the kernel verify it, and make test, as root, "
      "does I/O through it.\n"
      "Example:\n"
      "  ublk-bpf new mypolicy");
}

int run_new(const Options& options) {
  const auto written = write_new(options.attach.program);
  if (!written) return report(written.error(), options.json);
  if (options.json)
    say(dump({{"files", *written}}));
  else
    for (const std::string& file : *written) say(file);
  return kDone;
}

}  // namespace ublk::cli
