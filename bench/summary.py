# SPDX-License-Identifier: MIT
"""The summary on top of docs/performance.md: one table of ratios, and first of all what costs more than what it is compared with."""

from dataclasses import dataclass

import limits
import report
from limits import FILE
from result import Job
from tables import figure

JOBS = [("read", 1), ("read", 32), ("write", 1), ("write", 32)]
# what, of which size, the program's path and the other, on which backing, by which engine
LINES = [
    ("one disk", 4096, "program", "dm-linear", "null_blk", "libaio"),
    ("one disk, 64k", 65536, "program", "dm-linear", "null_blk", "libaio"),
    ("stripe of four", 4096, "program, stripe", "dm-stripe", "null_blk", "libaio"),
    ("mirror of two", 4096, "program, mirror", "dm-mirror", "null_blk", "libaio"),
    ("mirror of two", 4096, "program, mirror", "md raid1", "null_blk", "libaio"),
    ("one disk", 4096, "program", "kernel loop", "null_blk", "io_uring"),
    ("one disk", 4096, "program", "server", "null_blk", "io_uring"),
    ("file", 4096, "program", "kernel loop", FILE, "io_uring"),
    ("file, device mounted", 4096, "program, mounted", "kernel loop", FILE, "io_uring"),
    ("file in the page cache", 4096, "program, buffered", "kernel loop, buffered", FILE, "io_uring"),
    ("clone, in its base", 4096, "clone, base", "program", FILE, "io_uring"),
    ("clone, in its layer", 4096, "clone, delta", "program, layer", FILE, "io_uring"),
]


@dataclass
class Row:
    """One line of the table: values are (ratio, limit or None) by rw and depth."""

    what: str
    other: str
    ours: float  # instructions of a read, or of a write if there is none, at QD1
    theirs: float
    values: dict


def _limit(path, other, backing, engine, rw, at):
    found = [r.limits[at] for r in limits.RATIOS
             if (r.path, r.other, r.backing) == (path, other, backing) and engine in r.engines and rw in r.rws and at in r.limits]
    return found[0] if found else None


def rows(result):
    """Of a result of bench/run."""
    found = []
    for what, bs, path, other, backing, engine in LINES:
        values, first = {}, None
        for rw, qd in JOBS:
            job = Job(rw, bs, qd, engine=engine)
            ours, theirs = result.cost(backing, path, job), result.cost(backing, other, job)
            if ours and theirs:
                first = first or (ours, theirs)
                values[rw, qd] = ours / theirs, _limit(path, other, backing, engine, rw, (bs, qd))
        if values:
            found.append(Row(what, other, *first, values))
    return found


def _cell(row, job):
    if job not in row.values:
        return ""
    value, limit = row.values[job]
    text = f"{value:.2f}" if round(value, 2) != 1 or value <= 1 else f"{value:.3f}"
    return f"**{text}**" if value > (1 if limit is None else min(limit, 1)) else text


def dearer(results):
    """Checks of ratios that are more than one, or broken: what costs more than what it is compared with."""
    found = []
    for result in results:
        for c in result.data.get("checks") or []:
            if not c["ok"] or (" / " in c["name"] and c["value"] > 1):
                found.append((result, c))
    return found


def _said(found):
    if not found:
        return ["No program costs more than what it is compared with, and no limit is broken."]
    groups = {}
    for result, c in found:
        groups.setdefault((c["name"], c["where"].partition(",")[0], result.data.get("face")), []).append(c)
    lines = []
    for (name, backing, face), checks in groups.items():
        values = sorted(c["value"] for c in checks)
        unit = f" {checks[0]['unit']}" if checks[0]["unit"] else ""
        between = f"{values[0]:g}" + (f" to {values[-1]:g}" if values[-1] != values[0] else "") + unit
        where = ", ".join(dict.fromkeys(c["where"].partition(", ")[2] for c in checks))
        broken = [c for c in checks if not c["ok"]]
        over = " and ".join(dict.fromkeys(f"{c['limit']:g}" for c in broken))
        lines.append(f"- {name}: {between} ({backing}{': ' if where else ''}{where}; {face})" + (f", **{len(broken)} over the limit of {over}**" if broken else ""))
    return ["What costs more than what it is compared with, or than it may:", "\n".join(lines)]


def text(runs, results):
    """Paragraphs: what is dearer, of all results; the table, of the first run."""
    out = _said(dearer(results))
    if runs:
        run = runs[0]
        table = [["program over", "beside", "instructions, QD1"] + [f"{rw} QD{qd}" for rw, qd in JOBS]]
        for row in rows(run):
            table.append([row.what, row.other, f"{figure(row.ours)} / {figure(row.theirs)}"] + [_cell(row, job) for job in JOBS])
        out += [f"Guest instructions per I/O of a program, over those of what does the same; 4k, Linux {run.data['kernel']}, {run.data['face']}. Bold is "
                "what costs more than it may, or than the other. Beside device mapper and md by libaio, else by io_uring.",
                report.markdown(table)]
    return out
