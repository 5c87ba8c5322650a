# SPDX-License-Identifier: MIT
"""A result as text: the tables that bench/run, `ublk-bpf bench` and docs/performance.md have."""

import claims
import tables
from limits import engine_of
from result import Result

COUNTED = (
    "Counted: all instructions that the one-processor machine executed per I/O, kernel and user space, the generator's own\n"
    "part included, which is the same on each path (last row). No page cache, TLB, branch or lock effect is in them."
)


def columns(cells):
    """(rw, bs, qd) in the order of measurement."""
    return list(dict.fromkeys((c["rw"], c["bs"], c["qd"]) for c in cells))


def column_name(column):
    rw, bs, qd = column
    return f"{rw} {bs >> 10}k QD{qd}"


def thousands(value):
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def spread(value):
    return f"{value * 100:.1f}%"


def engines(result, backing):
    return list(dict.fromkeys(engine_of(c) for c in result["cells"] if c["backing"] == backing))


def cell_rows(result, backing, engine="io_uring", fits=lambda path: True):
    """Header and rows of one backing's table: path, then a figure per column, then the largest spread of the row."""
    cells = [c for c in result["cells"] if c["backing"] == backing and engine_of(c) == engine and fits(c["path"])]
    cols = columns(cells)
    rows = [["path"] + [column_name(c) for c in cols] + ["spread"]]
    for path in dict.fromkeys(c["path"] for c in cells):
        mine = {(c["rw"], c["bs"], c["qd"]): c for c in cells if c["path"] == path}
        figures = [thousands(mine[c]["insns_per_io"]) if c in mine else "" for c in cols]
        rows.append([path] + figures + [spread(max(c["spread"] for c in mine.values()))])
    own = {(g["rw"], g["bs"], g["qd"]): g["insns_per_io"] for g in result["generator_part"] if engine_of(g) == engine}
    if backing == next(iter(result["backings"])) and own:
        rows.append(["(generator)"] + [thousands(own[c]) if c in own else "" for c in cols] + [""])
    return rows


def scaling_rows(result):
    """What bench/run --two measured."""
    rows = [["path", "queues", "IOPS, one submitter", "two", "two over one", "waits for a lock per 1000 I/Os, two"]]
    for s in result["scaling"]:
        waits = s["waits_per_1000_ios"]
        rows.append([s["path"], f"{s['queues']}", thousands(s["iops_one"]), thousands(s["iops_two"]), f"{s['scales']:.2f}",
                     "" if waits is None else f"{waits:g}"])
    return rows


def check_rows(result):
    rows = [["what", "where", "value", "limit", ""]]
    for c in result["checks"]:
        verdict = ("OK" if c["ok"] else "BROKEN") + (f" ({c['note']})" if c["note"] else "")
        rows.append([c["name"], c["where"], f"{c['value']:g} {c['unit']}".strip(), f"{c['limit']:g}", verdict])
    return rows


def align(rows, right_from=1):
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        padded = [v.ljust(w) if i < right_from else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def markdown(rows, right="---:|"):
    """A table; right="" for one of text."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---|" + (right or "---|") * (len(rows[0]) - 1), *body])


def small(result):
    """What the demonstration ends with."""
    cells = {(c["path"], c["qd"]): c for c in result["cells"]}
    rows = [["4k reads", "instructions per I/O, QD1", "QD32", "server wake-ups per I/O, QD1", "QD32"]]
    for path in dict.fromkeys(c["path"] for c in result["cells"]):
        row = [cells[path, 1], cells[path, 32]]
        wakeups = [c["server_wakeups_per_io"] for c in row]
        rows.append([path if path != "raw" else "raw device"] + [f"{c['insns_per_io']:,.0f}" for c in row]
                    + ["no server" if w is None else f"{w:.2f}" if w else "0" for w in wakeups])
    return f"Counted on Linux {result['kernel']} ({result['face']}), null_blk completing inline:\n{align(rows)}"


def counted_note(result):
    """How the figures came about, of a set of `ublk-bpf bench`."""
    if result.counted:
        return COUNTED.replace(" (last row)", "")
    return ("Measured: the CPU time of all processes and of the kernel per I/O, on this host. Its frequency, its caches and what else it runs are in\n"
            "the figures; compare only what was measured in the same rounds.")


def bench(data):
    """All of a result of `ublk-bpf bench`: cost, who pays, the other figures, claims, limits."""
    result = Result(data)
    out = [f"Linux {data.get('kernel', '?')}, {data.get('face') or 'no program possible'}, set {data.get('set', '?')}, {result.rounds} rounds",
           counted_note(result)]
    if data.get("interrupted"):
        out.append("INTERRUPTED: this is what there was until then")
    legend = "; p/: the program's cost over this path's; =: they differ less than the spread"
    for backing, what in result.backings.items():
        ratios = legend if tables.program_of(result, backing) else ""
        out += ["", f"== {backing}" + (f" ({what})" if what else ""), f"{result.unit_name} per I/O, medians{ratios}"]
        for title, rows in tables.cost_tables(result, backing):
            out += ["", title, align(rows)]
        for job in tables.close_jobs(result, backing):
            for title, rows in (("who pays", tables.payers_rows(result, backing, job)), ("other figures", tables.other_rows(result, backing, job))):
                out += ["", f"{title}, {job.name}", align(rows)] if rows else []
    looked = tables.looked_note(result)
    out += ["", looked] if looked else []
    out += [""] + [f"absent: {a['path']}: {a['why']}" for a in data.get("absent") or []]
    out += [f"data not checked, {backing}: {'; '.join(names)}" for backing, names in tables.unchecked(result).items()]
    out += ["", "Published claims", "", claims.text(result)]
    checks = tables.check_rows(result)
    if checks:
        broken = sum(not c["ok"] for c in data["checks"])
        out += ["", align(checks, right_from=2), "", f"{len(checks) - 1} limits, {broken} broken"]
    return "\n".join(out)


def text(result):
    """All of a result."""
    return bench(result) if result.get("set") else counted(result)


def counted(result):
    """Tables of what one machine counted, and the limits."""
    s = result["settings"]
    out = [
        f"Linux {result['kernel']}, {result['face']}, program {result['program']['name']}, {s['rounds']} rounds",
        COUNTED,
    ]
    for backing, what in result["backings"].items():
        for engine in engines(result, backing):
            by = "" if engine == "io_uring" else f", {engine}"
            out += ["", f"Instructions per I/O, {backing}{by} ({what}); median of the rounds", align(cell_rows(result, backing, engine))]
    out += [f"absent: {a['path']}: {a['why']}" for a in result.get("absent") or []]
    out += [f"promised, and not measured: {u}" for u in result.get("unproved") or []]
    out += ["", align(check_rows(result), right_from=2)]
    broken = [c for c in result["checks"] if not c["ok"]]
    out += ["", f"{len(result['checks'])} limits, {len(broken)} broken"]
    return "\n".join(out)
