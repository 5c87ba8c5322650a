# SPDX-License-Identifier: MIT
"""
Writes docs/performance.md and the pages and plots of docs/performance/ of committed results:

    scripts/in-root python3 bench/perfdoc.py --into docs bench/results/*.json

A page answers one question, of all results that have figures for it. What is in docs/performance/ and not written is removed. Needs
matplotlib.
"""

import argparse
import statistics
import sys
from pathlib import Path

import claims
import limits
import many
import plots
import report
import summary
import tables
from result import Unusable, load

MARK = "<!-- SPDX-License-Identifier: MIT -->\n<!-- Made by bench/perfdoc.py from bench/results; do not edit. -->"

METHOD = """What is counted is **guest instructions per I/O**: all that a one-processor machine executes, kernel and user space, from the first to
the last completion, divided by the I/Os. QEMU's `-icount shift=0` makes the machine's clock its instruction counter, so the figures
do not depend on how fast or how busy the host is, and differ by about a percent between runs.

What they show: work per I/O, system calls, context switches, wake-ups, copies. What they do **not** show: cache and TLB misses,
mispredicted branches, mitigations, lock contention, interrupts of real hardware, latency, bandwidth. One processor never waits for
another: a server on a processor of its own looks better in wall time than here, and costs the same. TCG counts every byte of `rep
movsb`, which hardware does not; so the machine has no ERMS, and a copy costs 0.165 instructions per byte. Read ratios, not figures.

The generator (`bench/load.c`) is a bare loop around io_uring or libaio, direct I/O at random places of 16 MiB. Its own part is in the
figures, and listed; fio's, which is several thousand instructions per I/O, would hide the ratios. It opens what it measures without
`O_EXCL`: a device that is claimed may have a file system on it, for which writes to files take a longer way.

io_uring first tries not to wait. Of what cannot promise that (dm-mirror, dm-snapshot, dm-thin, md) it leaves each I/O to a worker of its
own, which makes it two to three times as dear. Device mapper and md are therefore measured with libaio too, where the submitter does it, and
compared by that.

| path | what it is |
|---|---|
| raw | the backing itself |
| kernel loop | a loop device with direct I/O on it; *buffered*: through the page cache |
| server | `ublk-bpf add -t loop` with nothing attached; *--no-bpf*: a device that cannot have a program; *throttled*: with what the block layer does by default to writeback, as that one has it |
| program | the same with `loop.bpf.o` attached; *--no-inline*: through a worker; *completion*: with a completion program that does nothing |
| program, mounted | the device has a file system on it, and is read itself |
| program, buffered | the file is open without `O_DIRECT`, and all of it in the page cache |
| clone | `ublk-bpf add -t clone`, blocks that are there: *base*: below its layer; *delta*: in its layer, all of which was written before. *program, layer*: what that is compared with, `loop.bpf.o` on the data of such a file |
| kublk | the kernel's own server, of its selftests |

kublk completes reads of its null target on the request's own pages (zero copy, automatic registration) without touching these, so that a
reader gets what they held before: with buffered reads, other processes' data. It is compared with ours doing the same (`--no-fill`).
By default ours reads **zeroes** there, from `/dev/zero`, and is limited to 1.20 of it.

To repeat it: `make bench` has all limits and fails where one is broken; `make bench-report` is the quick set that continuous integration
runs. `bench/README.md` describes the JSON."""

KEPT = """What device mapper and md keep that programs do not, and what of it is in these figures:

| | they keep | in the figures | programs |
|---|---|---|---|
| dm-linear, dm-stripe | nothing | | the same |
| dm-mirror | a log of regions that are written, by which a crash is repaired | in memory only (`core`, `nosync`) | no log: after a crash the legs are to be compared |
| md raid1 | a superblock, a write-intent bitmap, which member failed when | neither (`mdadm --build`): with a bitmap a first write to a region waits for the bitmap | no superblock, no bitmap |
| dm-snapshot | which chunks were copied, on disk before a write is done | chunks that were copied before | nothing that survives a crash |
| dm-thin | a transactional tree of blocks, checked by checksums | blocks that were allocated before | nothing that survives a crash |

An I/O of 64k on dm-snapshot is sixteen, as its chunks are of 4 KiB.

Programs keep state in maps, which are gone with the machine. What must survive a crash belongs in the server. So this page promises
no ratio against dm-snapshot or dm-thin: it would compare different things. A clone does survive a crash. Its ratios against both are
promised, and are on the pages of clones and of limits."""

SCALING = """4k reads, 32 in flight on each of two processors, of one device, by a generator on each; beside what one of them does alone. What counts
is that a program scales as the raw device does: an emulated processor knows neither caches nor what moving a line between them costs. A wait
is one that the kernel's tracepoint `lock:contention_begin` tells of, of the generators' own."""

CLONES = """Beside what else makes a disk of an image and of what was written since. A *hit* is a block that is in the layer (`clone, delta`) or below it
(`clone, base`); dm-snapshot and dm-thin have copied or allocated before, except *origin*. A *first write* is one of a whole block that the layer does not have
yet: dm-snapshot then writes to its store where it is, and qemu-nbd copies a cluster of 64 KiB; a clone notes it in its map, and writes that at the next
flush. What device mapper does for crashes at each write, a clone does at a flush."""

MANY = """Memory is what the machine has less than before the first step, for each clone: server, driver, program, maps, page cache."""

PARTS = """At QD1 each request wakes the server and puts it to sleep again, at QD32 most share that: what QD1 costs more is the waking. The null target
at QD32 is what the block layer, the driver, the ring and its two commands take; the loop target adds its own request to the file. The
program saves all of the first, and of the rest what is the server's."""


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


# of ublk-bpf bench
SETS = ("quick", "full", "device")


class Source:
    """A committed result and what pages say of where it comes from."""

    def __init__(self, path):
        self.result = load(path)
        self.data, self.stem = self.result.data, Path(path).stem
        if self.data.get("checks"):
            self.data["checks"] = limits.judged_again(self.data)
        self.kind = self.data.get("set") or ("run" if "null_blk" in self.data["backings"] else "peers")
        self.plots = plots.all_plots(self.result) if self.kind in SETS else []

    def heading(self, what=None):
        host = self.data.get("host") or {}
        machine = ", ".join(v for v in (host.get("qemu"), f"host {host['cpu']}" if host.get("cpu") else None) if v)
        return (f"## Linux {self.data['kernel']}, {self.data.get('face')}\n\n{what or f'{self.result.rounds} rounds, medians, {self.result.unit_name} per I/O'}. "
                f"Commit {host.get('commit')}, {str(host.get('when'))[:10]}, {machine}; `{self.stem}.json`."
                + "".join(f"\n\nNote: {note}" for note in self.data.get("notes") or []))

    def images(self, backing):
        slug = plots.slugs(self.result)[backing]
        return [f"![{caption}]({self.stem}-{name}.svg)" for name, caption, _ in self.plots if name.startswith(slug + "-")]


def run_tables(source, backing, fits):
    """A table for each engine of what bench/run measured on a backing, of the paths that fit."""
    out = []
    for engine in report.engines(source.data, backing):
        rows = report.cell_rows(source.data, backing, engine, fits)
        if len(rows) > 1:
            out += [f"With {engine}:", report.markdown(escaped(rows))]
    return out


def set_tables(source, backing):
    """Plots, where the time goes and all costs of a backing of a set."""
    result = source.result
    out = [f"### {backing}: {result.backings[backing]}", *source.images(backing)]
    for job in tables.close_jobs(result, backing):
        for title, rows in (("Where the time goes", tables.payers_rows(result, backing, job)), ("Other figures", tables.other_rows(result, backing, job))):
            out += [f"{title}, {job.name}:", report.markdown(escaped(rows))] if rows else []
    ratios = "; p/ is the program's cost over this path's" if tables.program_of(result, backing) else ""
    for title, rows in tables.cost_tables(result, backing):
        out += [f"Cost, {title}{ratios}:", report.markdown(escaped(rows))]
    return out


def set_pages(sources, kinds, backings):
    """Whole sets, the backings that fit."""
    out = []
    for s in (s for s in sources if s.kind in kinds):
        mine = [b for b in s.result.backings if backings(b)]
        if mine:
            looked = tables.looked_note(s.result)
            out += [s.heading(), "=: differs less than the spread."] + ([looked] if looked else []) + [part for b in mine for part in set_tables(s, b)]
            for title, rows in (("Paths", tables.path_rows(s.result)), ("Absent", tables.absent_rows(s.result))):
                out += [f"### {title}", report.markdown(escaped(rows), right="")] if rows else []
    return out


def is_mapping(path):
    return path == "raw" or path.startswith(("program", "dm-", "md ")) and "inline" not in path


def is_service(path):
    return path.startswith(("raw", "kernel loop", "server", "program")) and path.count(",") < 2


def mapping_page(sources):
    out = [KEPT]
    for s in (s for s in sources if s.kind == "run"):
        out += [s.heading(), *run_tables(s, "null_blk", is_mapping)]
        out += [f"Absent: {a['path']}: {a['why']}." for a in s.data.get("absent") or []]
    return out


def files_page(sources):
    out = []
    for s in (s for s in sources if s.kind == "run" and summary.FILE in s.data["backings"]):
        out += [s.heading(), s.data["backings"][summary.FILE] + ".", *run_tables(s, summary.FILE, lambda path: True)]
    for s in (s for s in sources if s.kind == "quick" and summary.FILE in s.result.backings):
        out += [s.heading(), *set_tables(s, summary.FILE)]
    return out


def server_page(sources):
    out = []
    for s in (s for s in sources if s.kind in ("run", "peers")):
        out.append(s.heading())
        for backing, what in s.data["backings"].items():
            if backing != summary.FILE:
                out += [f"### {backing}: {what}", *run_tables(s, backing, is_service if backing == "null_blk" else lambda path: True)]
        if s.kind == "peers":
            out += ["### Where our server's cost is, 4k reads", PARTS, report.markdown(parts_of_cost(s.data))]
    return out


def claims_page(sources):
    out = []
    for s in (s for s in sources if s.kind in SETS):
        found = [c for c in claims.measured(s.result) if c["measured"]]
        if found:
            why = [f"- **{c['name']}**: {' '.join(c['why'])}" for c in found if c["why"]]
            out += [s.heading(), report.markdown(escaped(claims.rows(found)), right="")]
            out += ["Why ours differs:", "\n".join(why)] if why else []
    return out


def first_add(data):
    return f"; {data['first_add_ms']:.1f} ms of the first clone of the machine, which loads the program" if "first_add_ms" in data else ""


def clones_page(sources):
    out = []
    for s in (s for s in sources if s.kind == "clones"):
        out.append(s.heading())
        for backing, what in s.data["backings"].items():
            out += [f"### {backing}: {what}", *run_tables(s, backing, lambda path: True)]
        adds = s.data["add_ms"]
        out.append(f"From the start of `add` to the end of the first read, a clone of an image of 1 TiB, at an instruction a nanosecond: "
                   f"{statistics.median(adds):.1f} ms (median of {len(adds)}; {min(adds):.1f} to {max(adds):.1f})"
                   f"{first_add(s.data)}.")
        if waits := s.data.get("pause_ms"):
            out.append("The longest 4k read or write while a clone is under both, at an instruction a nanosecond, the command on the same processor: " +
                       ", ".join(f"{max(times):.1f} ms during a {what} (of {len(times)}, median {statistics.median(times):.1f})" for what, times in waits.items())
                       + ". No I/O fails.")
        out += [f"Absent: {a['path']}: {a['why']}." for a in s.data.get("absent") or []]
    for s in (s for s in sources if s.kind == "many"):
        out += [s.heading("Seconds of an emulator, so only their growth says something"), MANY, report.markdown(escaped(many.rows(s.data["steps"])))]
    return [CLONES] + out if out else []


def limits_page(sources):
    out = []
    for s in sources:
        rows = tables.check_rows(s.result)
        out += [s.heading(), report.markdown(escaped(rows))] if rows else []
        out += [f"- Promised, and not measured here: {u}" for u in s.data.get("unproved") or []]
    return out


def processors_page(sources):
    out = []
    for s in (s for s in sources if s.data.get("scaling")):
        out += [s.heading(f"{s.data['settings']['rounds']} rounds, the best"), report.markdown(escaped(report.scaling_rows(s.data)))]
    return [SCALING] + out if out else []


# name, question, what the page says of it in one line, what it is made of
PAGES = [
    ("mapping", "What does a mapping cost, beside device mapper and md?",
     "A program over disks that complete at once, beside the targets that do the same, each in its cheapest way.", mapping_page),
    ("files", "What does a device over a file cost?",
     "A file on ext4, all of it written before, served by a program, by our server and by the kernel's loop.", files_page),
    ("clones", "What does a clone cost, beside dm-snapshot, dm-thin and qcow2?",
     "Blocks that are there, first writes, the time until a clone can be used, and a thousand of them.", clones_page),
    ("server", "What does a device cost that a server serves?",
     "Our server, the kernel's own (kublk), and the program in the server's place.", server_page),
    ("paths", "What does an I/O cost on each data path, and where does the time go?",
     "The quick set of `ublk-bpf bench`: all data paths, whose time is spent, copies, wake-ups, latency.",
     lambda sources: set_pages(sources, ("quick",), lambda b: b != summary.FILE)),
    ("devices", "What do many devices cost?",
     "Sixteen and more devices at once, each with I/O of its own.",
     lambda sources: set_pages(sources, ("full", "device"), lambda b: True)),
    ("processors", "Do two submitters on two processors scale?",
     "Two processors of an emulator, each with a generator of its own; time, not instructions.", processors_page),
    ("claims", "What have others published of ublk's speed, and what is measured here?", "Six claims, measured again.", claims_page),
    ("limits", "Which limits are promised, and do they hold?", "Every check of every result; a run fails where one is broken.", limits_page),
    ("method", "What is counted, and what is not?", "Instructions that an emulated machine executes per I/O: work, not time.", lambda sources: [METHOD]),
]


def text_of(parts):
    return "\n\n".join(parts).rstrip() + "\n"


def documents(paths):
    """Name and text of each page and plot, below docs."""
    order = {"quick": 0, "run": 1, "peers": 2}
    sources = sorted((Source(p) for p in paths), key=lambda s: (order.get(s.kind, 3), s.stem))
    made = {}
    pages = []
    for name, question, line, make in PAGES:
        parts = make(sources)
        if parts:
            made[f"performance/{name}.md"] = text_of([MARK, f"# {question}", line, *parts])
            pages.append(f"- [{question}](performance/{name}.md) {line}")
    runs = [s for s in sources if s.kind == "run"]
    front = [MARK, "# Performance", *summary.text([s.result for s in runs], [s.result for s in sources])]
    picture = plots.ratios(summary.rows(runs[0].result), "summary") if runs else None
    if picture:
        made["performance/summary.svg"] = plots.standalone(picture)
        front.append("![Cost of a program over that of what it is compared with; left of the line it costs less.](performance/summary.svg)")
    made["performance.md"] = text_of(front + ["\n".join(pages)])
    shown = "".join(made.values())
    for s in sources:
        made |= {f"performance/{s.stem}-{name}.svg": plots.standalone(svg) for name, _, svg in s.plots if f"({s.stem}-{name}.svg)" in shown}
    return made


def write(made, docs):
    """All of it, and nothing else below docs/performance."""
    Path(docs, "performance").mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        Path(docs, name).write_text(text, encoding="utf-8")
    for stale in Path(docs, "performance").iterdir():
        if f"performance/{stale.name}" not in made:
            stale.unlink()


def main(argv=None):
    p = argparse.ArgumentParser(prog="perfdoc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", metavar="RESULT.json", nargs="+")
    p.add_argument("--into", metavar="DIR", required=True, help="docs, for what is committed")
    args = p.parse_args(argv)
    try:
        write(documents(args.results), args.into)
    except Unusable as e:
        print(f"perfdoc: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
