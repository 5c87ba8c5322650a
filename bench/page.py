#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
One self-contained HTML page of a result of `ublk-bpf bench`: plots, tables, claims, limits, settings. It loads nothing; all text of the
result is escaped. It is XHTML, so that whether it is well formed can be told.

Exit status: 0, 1 it could not be written, 2 used wrongly or no such result.
"""

import argparse
import html
import json
import os
import sys
from pathlib import Path

import claims
import plots
import result as results
import tables
from result import Job, Unusable

STYLE = """
:root { color-scheme: light dark; --bg: #ffffff; --ink: #1b1f24; --dim: #5c6670; --line: #d9dde2; --soft: #f5f6f8; --hot: #d55e00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
 :root { --bg: #14171b; --ink: #e4e7eb; --dim: #9aa3ae; --line: #333a42; --soft: #1c2026; --hot: #ff8a3d; --bad: #ff8a80; }
DARK_PLOTS }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; background: var(--bg); color: var(--ink);
 font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; border-top: 1px solid var(--line);
 padding-top: 1.4rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { max-width: 48rem; margin: .5rem 0; } .dim, figcaption { color: var(--dim); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem; margin: 1.25rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; color: var(--hot); } .tiles span { color: var(--dim); font-size: .85rem; }
figure { margin: 1.25rem 0 2rem; } figure svg { width: 100%; height: auto; max-width: 60rem; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; margin: .4rem 0 1rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; } th { color: var(--dim); font-weight: 600;
 vertical-align: bottom; } th:first-child, td:first-child, table.text td, table.text th { text-align: left; }
table.text td { white-space: normal; vertical-align: top; }
tr.program td { font-weight: 600; background: var(--soft); } tr.program td:first-child { color: var(--hot); } td.broken, .alarm { color: var(--bad); font-weight: 600; }
details { margin: .75rem 0; } summary { cursor: pointer; font-weight: 600; } pre { overflow-x: auto; background: var(--soft); padding: .75rem 1rem; font-size: .8rem; }
.claim { border-left: 3px solid var(--line); padding: .1rem 0 .1rem 1rem; margin: 1.2rem 0; } .claim h3 { margin-top: 0; } li { max-width: 46rem; }
@media print { body { max-width: none; } details:not([open]) > * { display: block; } figure, .claim { break-inside: avoid; } }
"""

COUNTED = """What is counted is guest instructions: all that a one-processor virtual machine executes from the first to the last completion, in kernel and
user space, divided by the I/Os. The machine's clock is its instruction counter (QEMU's icount), so the figures do not depend on how fast or how busy
the host is. Rounds of all paths are interleaved; a figure is the median of its rounds, its spread the largest less the smallest over the median."""
NOT_COUNTED = """What this does not show: cache and TLB misses, mispredicted branches, mitigations, contention for locks, interrupts of real hardware,
memory bandwidth. One processor never waits for another: a server on a processor of its own looks better in wall time, and costs the same. A copy costs 0.165
instructions a byte, which is little beside what it does to caches on hardware. Latency and IOPS are at one instruction a nanosecond.
Read ratios, not figures."""
MEASURED = """What is measured is CPU time on this host: of the submitter, the server, kernel threads and interrupts, divided by the I/Os. Rounds of all
paths are interleaved; a figure is the median of its rounds, its spread the largest less the smallest over the median. The figures have the host's
frequency, caches and other load in them; compare only what was measured in the same rounds."""


def esc(value):
    return html.escape(str(value))


def table(rows, kind=""):
    """Rows of strings as a table that scrolls on its own; the first row is the head."""
    head = "".join(f"<th>{esc(v)}</th>" for v in rows[0])
    body = []
    for row in rows[1:]:
        cells = "".join(f'<td class="broken">{esc(v)}</td>' if v.startswith("BROKEN") else f"<td>{esc(v)}</td>" for v in row)
        body.append(f'<tr class="program">{cells}</tr>' if row[0] == "program" else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}><thead><tr>{head}</tr></thead>' \
           f'<tbody>{"".join(body)}</tbody></table></div>'


def details(title, content, is_open=False):
    return f'<details{" open=" + chr(34) + "open" + chr(34) if is_open else ""}><summary>{esc(title)}</summary>{content}</details>'


def tiles(result):
    """The few figures that somebody who reads nothing else should see."""
    found = []
    for backing in result.backings:
        for qd in (1, 32):
            job = Job("read", 4096, qd)
            cost = result.cost(backing, "program", job)
            if cost is None:
                continue
            found.append((tables.figure(cost), f"{result.unit_name} per I/O with the program, {job.name} on {backing}"))
            for other in ("kernel loop", "server"):
                ratio = result.ratio(backing, "program", other, job)
                if ratio:
                    found.append((f"{ratio[0]:.2f}" if ratio[1] else "equal", f"of {'the ' * (other == 'server')}{other}'s, {job.name}"))
        if found:
            break
    return '<ul class="tiles">' + "".join(f"<li><b>{esc(a)}</b><span>{esc(b)}</span></li>" for a, b in found) + "</ul>" if found else ""


def head(result):
    data, host = result.data, result.data.get("host") or {}
    commit = host.get("commit") or "unknown"
    out = [f"<h1>CPU per I/O of block devices, Linux {esc(data.get('kernel', '?'))}</h1>",
           f'<p class="dim">{esc(data.get("ublk_bpf") or "ublk-bpf")}, commit {esc(commit)}, {esc(str(host.get("when", ""))[:10])}; '
           f"{esc(data.get('set') or 'all')} set, {esc(result.rounds)} rounds; {esc(result.unit_name)} per I/O</p>"]
    if data.get("interrupted"):
        out.append('<p class="alarm">The run was interrupted: this is what there was until then.</p>')
    broken = [c for c in data.get("checks") or [] if not c["ok"]]
    if broken:
        out.append(f'<p class="alarm">{len(broken)} of {len(data["checks"])} limits are broken: see Limits.</p>')
    return out + [tiles(result)]


def plot_section(result, drawn):
    out = ["<h2>Plots</h2>"]
    for name, caption, svg in drawn:
        labelled = plots.inline(svg).replace("<svg ", f'<svg role="img" aria-label="{esc(caption)}" ', 1)
        out.append(f'<figure id="{esc(name)}">{labelled}<figcaption>{esc(caption)}</figcaption></figure>')
    return out


def backing_section(result, backing, what):
    out = [f"<h2>{esc(backing)}</h2>", f'<p class="dim">{esc(what)}</p>' if what else ""]
    legend = "; p/ is the program's cost over this path's, = where they differ less than the spread" if tables.program_of(result, backing) else ""
    out.append(f'<p class="dim">{esc(result.unit_name)} per I/O, medians{legend}.</p>')
    for title, rows in tables.cost_tables(result, backing):
        out += [f"<h3>{esc(title[:1].upper() + title[1:])}</h3>", table(rows)]
    for job in tables.close_jobs(result, backing):
        for title, rows in (("Who pays", tables.payers_rows(result, backing, job)), ("Other figures", tables.other_rows(result, backing, job))):
            out.append(details(f"{title}, {job.name}", table(rows)) if rows else "")
    return out


def claim_section(result):
    out = ["<h2>What was claimed, measured again</h2>"]
    for c in claims.measured(result):
        why = "".join(f"<li>{esc(line)}</li>" for line in c["why"])
        out.append(f'<div class="claim"><h3>{esc(c["claim"])}</h3><p class="dim">{esc(c["setup"])}; {esc(c["source"])}</p>'
                   f'<p><b>Measured:</b> {esc(c["measured"] or "not measured")}</p>{f"<ul>{why}</ul>" if why else ""}</div>')
    return out


def path_section(result):
    paths = tables.path_rows(result)
    out = ["<h2>Paths</h2>"] if paths or result.data.get("absent") else []
    out += [table(paths, "text")] if paths else []
    absent = tables.absent_rows(result)
    return out + ([table(absent, "text")] if absent else [])


def limit_section(result):
    rows = tables.check_rows(result)
    if not rows:
        return []
    broken = [c for c in result.data["checks"] if not c["ok"]]
    return ["<h2>Limits</h2>", f"<p>{len(result.data['checks'])} limits, {len(broken)} broken.</p>", details("All of them", table(rows), bool(broken))]


def how_section(result):
    """How it was counted, and everything that somebody needs who wants to do it again."""
    data = result.data
    out = ["<h2>How it was counted</h2>" if result.counted else "<h2>How it was measured</h2>"]
    out += [f"<p>{text}</p>" for text in ((COUNTED, NOT_COUNTED) if result.counted else (MEASURED,))]
    looked = tables.looked_note(result)
    out += [f"<p>{esc(looked)}</p>"] if looked else []
    own = tables.generator_rows(result)
    if own:
        out.append("<p>The generator's own part is in each figure, the same on every path:</p>" + table(own))
    known = {n: data[n] for n in ("kernel", "face", "ublk_bpf", "set", "unit", "program", "generator", "fio", "host", "settings", "device") if data.get(n) is not None}
    out.append(details("Settings and versions", f"<pre>{esc(json.dumps(known, indent=1))}</pre>", True))
    return out + [f"<p>Note: {esc(note)}</p>" for note in data.get("notes") or []]


def page(result, drawn):
    """All of the page."""
    style = STYLE.replace("DARK_PLOTS", plots.dark_css())
    body = head(result) + (plot_section(result, drawn) if drawn else []) + claim_section(result)
    for backing, what in result.backings.items():
        body += backing_section(result, backing, what)
    body += limit_section(result) + path_section(result) + how_section(result)
    return (
        '<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en">\n<head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>CPU per I/O, Linux {esc(result.data.get('kernel', '?'))}</title>\n<style>{style}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def write(path, text):
    """Whole or not at all."""
    new = Path(f"{path}.new")
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def main(argv=None):
    p = argparse.ArgumentParser(prog="page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("result", metavar="RESULT.json")
    p.add_argument("-o", "--output", metavar="FILE", help="the page (default: RESULT.html beside it)")
    p.add_argument("--svg", metavar="DIR", help="also the plots alone, an SVG each")
    args = p.parse_args(argv)
    where = args.output or str(Path(args.result).with_suffix(".html"))
    try:
        result = results.load(args.result)
        drawn = plots.all_plots(result)
        write(where, page(result, drawn))
        if args.svg:
            Path(args.svg).mkdir(parents=True, exist_ok=True)
            for name, _, svg in drawn:
                write(Path(args.svg) / f"{name}.svg", plots.standalone(svg))
    except Unusable as e:
        print(f"page: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"page: {e.filename or where}: writing the report: {e.strerror}: give a place that can be written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
