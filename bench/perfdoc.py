# SPDX-License-Identifier: MIT
"""
Writes docs/performance.md of committed results, on stdout, and with --svg the plots that it shows:

    scripts/in-root python3 bench/perfdoc.py --svg docs/performance bench/results/*.json >docs/performance.md

Results of `ublk-bpf bench` come first, and need matplotlib.
"""

import argparse
import json
import sys
from pathlib import Path

import claims
import report
import tables
from result import Unusable, load

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


def escaped(rows):
    """Rows whose text comes from a result, for a table of markdown."""
    return [[v.replace("|", "\\|") for v in row] for row in rows]


def claims_part(result):
    """What others have published, beside this."""
    found = [c for c in claims.measured(result) if c["measured"]]
    if not found:
        return []
    out = ["### What was claimed, measured again", report.markdown(escaped(claims.rows(found)), right="")]
    why = [f"- **{c['name']}**: {' '.join(c['why'])}" for c in found if c["why"]]
    return out + (["Why ours differs:", "\n".join(why)] if why else [])


def set_section(path, svg_dir):
    """A result of `ublk-bpf bench`: plots, who pays, cost, claims, limits. The plots are written if there is a directory for them."""
    import plots  # pylint: disable=import-outside-toplevel  # most results need none
    result = load(path)
    data, stem = result.data, Path(path).stem
    drawn = plots.all_plots(result)
    if svg_dir:
        Path(svg_dir).mkdir(parents=True, exist_ok=True)
        for name, _, svg in drawn:
            (Path(svg_dir) / f"{stem}-{name}.svg").write_text(plots.standalone(svg), encoding="utf-8")
    host = data.get("host") or {}
    machine = ", ".join(v for v in (host.get("qemu"), f"host {host['cpu']}" if host.get("cpu") else None) if v)
    out = [f"## Linux {data['kernel']}, {data.get('face')}: the {data['set']} set of `ublk-bpf bench`",
           f"{result.rounds} rounds, medians, {result.unit_name} per I/O; =: differs less than the spread. Commit {host.get('commit')}, "
           f"{str(host.get('when'))[:10]}, {machine}; `{Path(path).name}`."]
    looked = tables.looked_note(result)
    out += [looked] if looked else []
    for backing, what in result.backings.items():
        out.append(f"### {backing}: {what}")
        out += [f"![{caption}](performance/{stem}-{name}.svg)" for name, caption, _ in drawn if name.startswith(plots.slugs(result)[backing] + "-")]
        for job in tables.close_jobs(result, backing):
            for title, rows in (("Who pays", tables.payers_rows(result, backing, job)), ("Other figures", tables.other_rows(result, backing, job))):
                out += [f"{title}, {job.name}:", report.markdown(escaped(rows))] if rows else []
        ratios = "; p/ is the program's cost over this path's" if tables.program_of(result, backing) else ""
        for title, rows in tables.cost_tables(result, backing):
            out += [f"Cost, {title}{ratios}:", report.markdown(escaped(rows))]
    out += claims_part(result)
    for title, rows in (("Paths", tables.path_rows(result)), ("Absent", tables.absent_rows(result))):
        out += [f"### {title}", report.markdown(escaped(rows), right="")] if rows else []
    out += [f"Note: {note}" for note in data.get("notes") or []]
    checks = tables.check_rows(result)
    return "\n\n".join(out + (["### Limits", report.markdown(escaped(checks))] if checks else []))


def section(path, svg_dir=None):
    result = json.loads(Path(path).read_text(encoding="utf-8"))
    if result.get("set"):
        return set_section(path, svg_dir)
    host = result["host"]
    out = [
        f"## Linux {result['kernel']}, {result['face']}" + ("" if "null_blk" in result["backings"] else ": ours and kublk"),
        f"{result['settings']['rounds']} rounds, medians; spread is the largest difference between rounds, over the median.\n"
        f"Commit {host['commit']}, {host['when'][:10]}, {host['qemu']}, host {host['cpu']}; `{Path(path).name}`.",
    ]
    for backing, what in result["backings"].items():
        for engine in report.engines(result, backing):
            by = "" if engine == "io_uring" else f", with {engine}"
            out += [f"### {backing}{by}: {what}", report.markdown(report.cell_rows(result, backing, engine))]
    if "null target" in result["backings"]:
        out += ["### Where our server's cost is, 4k reads", PARTS, report.markdown(parts_of_cost(result))]
    out += [f"Note: {note}" for note in result.get("notes", [])]
    rows = report.check_rows(result)
    rows[0][-1] = "verdict"
    out += ["### Limits", report.markdown(rows)]
    return "\n\n".join(out)


def document(paths, svg_dir=None):
    """All of docs/performance.md: the quick set, other sets, what bench/run measured."""
    def place(path):
        kind = json.loads(Path(path).read_text(encoding="utf-8")).get("set")
        return 0 if kind == "quick" else 1 if kind else 2

    ordered = sorted(paths, key=place)
    return "\n".join([HEAD] + [section(p, svg_dir) + "\n" for p in ordered]).rstrip()


def main(argv=None):
    p = argparse.ArgumentParser(prog="perfdoc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", metavar="RESULT.json", nargs="+")
    p.add_argument("--svg", metavar="DIR", help="where the plots are written; docs/performance for the document")
    args = p.parse_args(argv)
    try:
        print(document(args.results, args.svg))
    except Unusable as e:
        print(f"perfdoc: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
