# SPDX-License-Identifier: MIT
"""
Writes docs/performance.md of committed results, on stdout:

    scripts/in-root python3 bench/perfdoc.py bench/results/*.json >docs/performance.md
"""

import json
import sys
from pathlib import Path

import report

HEAD = """<!-- SPDX-License-Identifier: MIT -->
<!-- Made by bench/perfdoc.py from bench/results; do not edit. -->
# Performance

What is counted is **guest instructions per I/O**: all that a one-processor machine executes, kernel and user space, from the first to
the last completion, divided by the I/Os. QEMU's `-icount shift=0` makes the machine's clock its instruction counter, so the figures
do not depend on how fast or how busy the host is, and differ by about a percent between runs.

What they show: work per I/O, system calls, context switches, wake-ups, copies. What they do **not** show: cache and TLB misses,
mispredicted branches, mitigations, lock contention, interrupts of real hardware, latency, bandwidth. One processor never waits for
another: a server on a processor of its own looks better in wall time than here, and costs the same. TCG counts every byte of `rep
movsb`, which hardware does not; so the machine has no ERMS, and a copy costs 0.165 instructions per byte. Read ratios, not figures.

The generator (`bench/load.c`) is a bare io_uring loop, direct I/O at random places of 16 MiB. Its own part is in the figures, and listed;
fio's, which is several thousand instructions per I/O, would hide the ratios.

Paths: **raw**, the backing itself; **kernel loop**, a loop device with direct I/O on it; **server**, `ublk-bpf add -t loop` with nothing attached;
**program**, the same with `loop.bpf.o` attached; **--no-inline**, the same through a worker; **--no-bpf**, a device that cannot have
a program, for what the possibility alone costs. **kublk** is the kernel's own server, of its selftests; it and ours serve the same thing on
the same data path, in one run.

kublk completes reads of its null target on the request's own pages (zero copy, automatic registration) without touching these, so that a
reader gets what they held before: with buffered reads, other processes' data. It is compared with ours doing the same (`--no-fill`).
By default ours reads **zeroes** there, from `/dev/zero`, and is limited to 1.20 of it.

To repeat it: `make bench`; it fails where a limit is broken. `bench/README.md` describes the JSON.
"""


PARTS = """
At QD1 each request wakes the server and puts it to sleep again, at QD32 most share that: what QD1 costs more is the waking. The null target
at QD32 is what the block layer, the driver, the ring and its two commands take; the loop target adds its own request to the file. The
program saves all of the first, and of the rest what is the server's.
""".strip()


def parts_of_cost(result):
    """Where the server's instructions are, from the differences of what was counted: rows of a table."""
    count = {(c["backing"], c["path"], c["rw"], c["bs"], c["qd"]): c["insns_per_io"] for c in result["cells"]}
    rows = [["data path", "waking the server, QD1", "driver, ring and commands", "the file's I/O, its pages registered", "of these: more than auto-zero-copy"]]
    for data_path in ("copy", "zero-copy", "auto-zero-copy"):
        def of(target, qd, path=data_path):
            return count[target, f"server, {path}", "read", 4096, qd]
        null, loop = of("null target", 32), of("loop target", 32)
        parts = (of("null target", 1) - null, null, loop - null, loop - of("loop target", 32, "auto-zero-copy"))
        rows.append([data_path] + [f"{part / 1000:.1f}k" for part in parts])
    return rows


def section(path):
    result = json.loads(Path(path).read_text())
    host = result["host"]
    out = [
        f"## Linux {result['kernel']}, {result['face']}" + ("" if "null_blk" in result["backings"] else ": ours and kublk"),
        f"{result['settings']['rounds']} rounds, medians; spread is the largest difference between rounds, over the median.\n"
        f"Commit {host['commit']}, {host['when'][:10]}, {host['qemu']}, host {host['cpu']}; `{Path(path).name}`.",
    ]
    for backing, what in result["backings"].items():
        out += [f"### {backing}: {what}", report.markdown(report.cell_rows(result, backing))]
    if "null target" in result["backings"]:
        out += ["### Where our server's cost is, 4k reads", PARTS, report.markdown(parts_of_cost(result))]
    out += [f"Note: {note}" for note in result.get("notes", [])]
    rows = report.check_rows(result)
    rows[0][-1] = "verdict"
    out += ["### Limits", report.markdown(rows)]
    return "\n\n".join(out)


if __name__ == "__main__":
    print("\n".join([HEAD] + [section(p) + "\n" for p in sys.argv[1:]]).rstrip())
