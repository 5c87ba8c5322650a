# SPDX-License-Identifier: MIT
"""
The plots of a result of `ublk-bpf bench`, as SVG. Each path has one colour, dash and mark on all of them: colour says who serves it (of
Okabe and Ito's palette, which the colour-blind can tell apart), dash and mark the data path; the program is the thick red one. The text and
the axes are in one ink, which a page may replace by its own (INK).
"""

import io
import re
from dataclasses import replace

from result import PAYERS, Job, Unusable, size_name
from tables import close_jobs, figure

try:
    import matplotlib
    import matplotlib.pyplot
except ImportError:
    matplotlib = None

INK = "#1b1f24"
SERVED_BY = {  # first that fits the beginning of a path's name
    "program": "#d55e00", "server": "#0072b2", "kublk": "#009e73", "kernel loop": "#cc79a7", "nbd": "#e69f00", "dm-linear": "#56b4e9", "raw": INK,
}
UNKNOWN = "#8a8f98"
VARIANTS = {  # dash and mark, by what follows the first comma of a path's name
    "": ("-", "o"), "copy": ("-", "o"), "zero-copy": ((0, (5, 1.5)), "s"), "auto-zero-copy": ((0, (5, 1.5, 1, 1.5)), "D"),
    "user-copy": ((0, (1, 1.2)), "v"), "need-get-data": ((0, (3, 1, 1, 1, 1, 1)), "^"), "auto-zero-copy, batch": ((0, (8, 2)), "P"),
    "qemu-nbd": ("-", "o"), "--no-inline": ((0, (5, 1.5)), "s"), "passing": ((0, (1, 1.2)), "v"),
}
# who pays: the submitter slate, the server blue as its paths, each light in user space and strong in the kernel; the workers as the path that has one
PAYER_COLOURS = {
    "submitter_user": "#c3cad3", "submitter_system": "#7b8794", "server_user": "#9ccbe6", "server_system": "#0072b2",
    "kernel_threads": "#cc79a7", "interrupts": "#e3c800", "other": "#b9a68f",
}
# the colours that are too dark on a dark page, and what they are there
ON_DARK = {
    INK: "#e4e7eb", "#d55e00": "#ff8a3d", "#0072b2": "#4d9fff", "#009e73": "#2fc79a", "#cc79a7": "#e29bc4", "#56b4e9": "#b5e3ff",
    "#9ccbe6": "#b9d9ff", "#c3cad3": "#dfe4ea",
}
LEADING = ("program", "raw", "kernel loop", "server", "kublk, copy", "server, auto-zero-copy")
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 10.5, "axes.titlesize": 12.5,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 24, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": UNKNOWN, "grid.alpha": 0.28, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "lines.solid_capstyle": "round",
}


def need_matplotlib():
    """Raises Unusable where there is none."""
    if matplotlib is None:
        raise Unusable("plots: importing matplotlib: there is none", "install python3-matplotlib, or run it with scripts/in-root")
    matplotlib.use("svg")  # no screen


def style_of(path):
    """Colour, dash, mark, width and place in the order of drawing."""
    colour = next((c for start, c in SERVED_BY.items() if path == start or path.startswith((start + ",", start + " "))), UNKNOWN)
    dash, mark = VARIANTS.get(path.partition(", ")[2], ((0, (2, 2)), "X"))
    width = 3.2 if path == "program" else 1.9 if path in LEADING else 1.2
    return {"color": colour, "linestyle": dash, "marker": mark, "linewidth": width, "markersize": 6.5 if path == "program" else 4.5,
            "zorder": 5 if path == "program" else 4 if path in LEADING else 3}


def _figure(width, height):
    return matplotlib.pyplot.figure(figsize=(width, height))


def _svg(fig, name):
    """The text of a figure's SVG: the same for the same figures; ids have the plot's name, as a page has many plots."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    matplotlib.pyplot.close(fig)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", out.getvalue(), flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.M)


def _figures_axis(axis):
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: re.sub(r"\.?0+(?=[kM])", "", figure(v)) if "." in figure(v) else figure(v)))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _room(ends, least):
    """Places from 0 to 1 for labels, as near to their lines' ends as they can be, at least `least` apart; in order of the ends."""
    places = list(ends)
    least = min(least, 1 / max(1, len(ends) - 1))
    for _ in range(2000):
        moved = False
        places[0], places[-1] = max(0, places[0]), min(1, places[-1])
        for n in range(len(places) - 1):
            lack = least - (places[n + 1] - places[n])
            if lack > 1e-6:
                places[n] -= lack / 2
                places[n + 1] += lack / 2
                moved = True
        if not moved:
            break
    return places


def _label_ends(ax, ends):
    """Each line's name at its right end, spread out so that none is on another; (path, x, y) in data."""
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = sorted(((path, *to_axes.transform((x, y))) for path, x, y in ends), key=lambda e: e[2])
    if not ends:
        return
    right = max(e[1] for e in ends)
    height = ax.get_position().height * ax.figure.get_figheight() * 72
    places = _room([e[2] for e in ends], 13.2 / height)
    for (path, x, y), place in zip(ends, places):
        style = style_of(path)
        ax.plot([x + 0.008, right + 0.035], [y, place], transform=ax.transAxes, color=style["color"], linewidth=0.7, clip_on=False, alpha=0.8)
        ax.text(right + 0.042, place, path, transform=ax.transAxes, va="center", ha="left", color=style["color"], fontsize=9.5,
                fontweight="bold" if path in ("program", "raw") else "normal")


def _lines(result, name, title, xlabel, series, xname):
    """Cost against one thing: a line for each path that has two figures or more. `series` is {path: [(x, cost, spread)]}."""
    series = {path: sorted(points) for path, points in series.items() if len(points) > 1}
    if not series:
        return None
    fig = _figure(9.6, max(4.8, 0.24 * len(series) + 1.7))
    ax = fig.add_axes((0.075, 0.115, 0.64, 0.755))
    for path, points in sorted(series.items(), key=lambda s: style_of(s[0])["zorder"]):
        xs, ys, spreads = zip(*points)
        style = style_of(path)
        ax.plot(xs, ys, **style)
        ax.errorbar(xs, ys, yerr=[y * s / 2 for y, s in zip(ys, spreads)], fmt="none", ecolor=style["color"], elinewidth=0.9)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    xs = sorted({x for points in series.values() for x, _, _ in points})
    ax.set_xticks(xs, [xname(x) for x in xs])
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    _figures_axis(ax.yaxis)
    ax.set(title=title, xlabel=xlabel)
    ax.text(-0.005, 1.015, f"{result.unit_name} per I/O", transform=ax.transAxes, fontsize=9, ha="left")
    _label_ends(ax, [(path, *points[-1][:2]) for path, points in series.items()])
    return _svg(fig, name)


def against(result, backing, name, title, xlabel, xname, of, fits):
    """_lines of the jobs that fit, by what `of` has of a job."""
    series = {}
    for (b, path, job), _ in result.cells.items():
        if b == backing and fits(job):
            series.setdefault(path, []).append((of(job), result.cost(b, path, job), result.spread(b, path, job)))
    return _lines(result, name, title, xlabel, series, xname)


def payers(result, backing, job, name):
    """Bars of cost per I/O, stacked by who pays; a path that was not looked into is one grey bar."""
    paths = [p for p in result.paths(backing) if result.cell(backing, p, job)]
    looked = [p for p in paths if result.figure(backing, p, job, "payers")]
    if not looked:
        return None
    paths.sort(key=lambda p: result.cost(backing, p, job), reverse=True)
    used = [n for n in PAYERS if any(result.figure(backing, p, job, "payers", n) for p in looked)]
    fig = _figure(9.6, 0.3 * len(paths) + 1.75)
    bottom = 0.55 / fig.get_figheight()
    ax = fig.add_axes((0.235, bottom, 0.665, 1 - bottom - 0.98 / fig.get_figheight()))
    for n, path in enumerate(paths):
        cost, left = result.cost(backing, path, job), 0
        parts = result.figure(backing, path, job, "payers")
        for payer in used if parts else []:
            part = parts.get(payer) or 0
            ax.barh(n, part, left=left, color=PAYER_COLOURS[payer], height=0.68, edgecolor="none")
            left += part
        if not parts:
            ax.barh(n, cost, color=UNKNOWN, height=0.68, alpha=0.45)
        ax.text(max(left, cost), n, f"  {figure(cost)}", va="center", fontsize=9.5, fontweight="bold" if path == "program" else "normal")
    ax.set_yticks(range(len(paths)), paths)
    for label in ax.get_yticklabels():
        if label.get_text() == "program":
            label.set(color=SERVED_BY["program"], fontweight="bold")
    ax.set_ylim(-0.6, len(paths) - 0.4)
    ax.margins(x=0.02)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _figures_axis(ax.xaxis)
    ax.set_xlabel(f"{result.unit_name} per I/O")
    handles = [matplotlib.patches.Patch(color=PAYER_COLOURS[n], label=PAYERS[n]) for n in used]
    if len(looked) < len(paths):
        handles.append(matplotlib.patches.Patch(color=UNKNOWN, alpha=0.45, label="not looked into"))
    top = fig.get_figheight()
    fig.text(0.012, 1 - 0.3 / top, f"Who pays for a {job.name} on {backing}", fontsize=12.5, fontweight="bold", ha="left")
    fig.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 1 - 0.4 / top), ncols=len(handles), fontsize=9.5, handlelength=1.1,
               handleheight=0.9, columnspacing=1.3, handletextpad=0.5)
    return _svg(fig, name)


def latency(result, backing, jobs, name):
    """p50, p99 and p99.9 of each path: a panel per job, time to the right."""
    marks = {"p50": "o", "p99": "|", "p99_9": ">"}
    jobs = [j for j in jobs if any(result.figure(backing, p, j, "latency_ns", "p50") for p in result.paths(backing))][:2]
    paths = [p for p in result.paths(backing) if any(result.figure(backing, p, j, "latency_ns", "p50") for j in jobs)]
    if not paths:
        return None
    paths.sort(key=lambda p: -(result.figure(backing, p, jobs[0], "latency_ns", "p50") or 0))
    fig = _figure(9.6, 0.3 * len(paths) + 1.75)
    bottom = 0.55 / fig.get_figheight()
    width = 0.745 / len(jobs) - 0.03
    for column, job in enumerate(jobs):
        ax = fig.add_axes((0.235 + column * (width + 0.03), bottom, width, 1 - bottom - 1.1 / fig.get_figheight()))
        for n, path in enumerate(paths):
            found = {p: result.figure(backing, path, job, "latency_ns", p) for p in marks}
            found = {p: v / 1000 for p, v in found.items() if v}
            colour = style_of(path)["color"]
            if found:
                ax.plot([min(found.values()), max(found.values())], [n, n], color=colour, linewidth=3 if path == "program" else 1.6, alpha=0.75)
            for p, value in found.items():
                ax.plot([value], [n], marks[p], color=colour, markersize=8 if p == "p99" else 6, markeredgewidth=2 if p == "p99" else 1)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        ax.set_yticks(range(len(paths)), paths if column == 0 else [""] * len(paths))
        ax.set_ylim(-0.6, len(paths) - 0.4)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("microseconds")
        ax.set_title(job.name, fontsize=10.5, fontweight="normal", pad=6)
    top = fig.get_figheight()
    title = f"Latency on {backing}" + (", at one instruction a nanosecond" if result.counted else "")
    fig.text(0.012, 1 - 0.3 / top, title, fontsize=12.5, fontweight="bold", ha="left")
    handles = [matplotlib.lines.Line2D([], [], linestyle="none", marker=m, color=INK, markersize=8 if p == "p99" else 6,
                                       markeredgewidth=2 if p == "p99" else 1, label=p.replace("_", ".")) for p, m in marks.items()]
    fig.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 1 - 0.4 / top), ncols=3, fontsize=9.5, columnspacing=1.3, handletextpad=0.3)
    return _svg(fig, name)


def ratios(rows, name):
    """
    Of each row of summary.rows() what the program costs over what it is compared with, at each job: a mark on a line, 1 is the same. The
    limit is a tick.
    """
    need_matplotlib()
    marks = {"read": "#0072b2", "write": "#d55e00"}
    with matplotlib.rc_context(STYLE):
        fig = _figure(9.6, 0.36 * len(rows) + 1.55)
        height = fig.get_figheight()
        ax = fig.add_axes((0.36, 0.55 / height, 0.61, 1 - 1.4 / height))
        for n, row in enumerate(reversed(rows)):
            for (rw, qd), (value, limit) in row.values.items():
                high = n + (0.13 if rw == "read" else -0.13)
                ax.plot([value], [high], "o" if qd == 1 else "D", color=marks[rw], markersize=6.5, fillstyle="full" if qd == 1 else "none",
                        markeredgewidth=1.6)
                if limit is not None:
                    ax.plot([limit], [high], "|", color=INK, markersize=9, markeredgewidth=1.1, alpha=0.55)
        ax.axvline(1, color=INK, linewidth=1.2)
        ax.set_yticks(range(len(rows)), [f"{r.what} / {r.other}" for r in reversed(rows)])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_xlim(0, max(1.1, *(v + 0.06 for r in rows for v, _ in r.values.values())))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("instructions per I/O, over those of what it is compared with")
        fig.text(0.012, 1 - 0.3 / height, "A program's cost beside what does the same", fontsize=12.5, fontweight="bold", ha="left")
        handles = [matplotlib.lines.Line2D([], [], linestyle="none", marker="o" if qd == 1 else "D", color=colour, markersize=6.5, markeredgewidth=1.6,
                                           fillstyle="full" if qd == 1 else "none", label=f"{rw} QD{qd}") for rw, colour in marks.items() for qd in (1, 32)]
        handles.append(matplotlib.lines.Line2D([], [], linestyle="none", marker="|", color=INK, markersize=9, alpha=0.55, label="limit"))
        fig.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 1 - 0.4 / height), ncols=5, fontsize=9.5, columnspacing=1.3,
                   handletextpad=0.3)
        return _svg(fig, name)


def _slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "backing"


def slugs(result):
    """What the names of each backing's plots begin with."""
    found = {}
    for backing in result.backings:
        slug = _slug(backing)
        found[backing] = f"{slug}-{len(found)}" if any(s.startswith(slug) or slug.startswith(s) for s in found.values()) else slug
    return found


def _curves(result, backing, slug):
    """Name, caption and SVG of each curve of a backing."""
    def one(job):
        return job.queues == 1 and job.devices == 1 and job.pattern == "random" and job.engine == "io_uring"
    yield (f"{slug}-block-size", "Cost against block size. A line that is parallel to raw adds a constant to each I/O; one that is steeper copies.",
           against(result, backing, f"{slug}-block-size", f"Random reads at QD1 on {backing}, by block size", "block size", size_name,
                   lambda j: j.bs, lambda j: j.rw == "read" and j.qd == 1 and one(j)))
    yield (f"{slug}-depth", "Cost against depth. What falls with depth is the waking: in depth, I/Os share it.",
           against(result, backing, f"{slug}-depth", f"Random reads of 4k on {backing}, by depth", "I/Os in flight", lambda x: f"{x}",
                   lambda j: j.qd, lambda j: j.rw == "read" and j.bs == 4096 and one(j)))
    yield (f"{slug}-devices", "Cost against the number of devices, each with its own 32 I/Os in flight.",
           against(result, backing, f"{slug}-devices", f"Random reads of 4k at QD32 on {backing}, by number of devices", "devices", lambda x: f"{x}",
                   lambda j: j.devices, lambda j: j.rw == "read" and j.bs == 4096 and j.qd == 32 and one(replace(j, devices=1))))


def all_plots(result):
    """(name, caption, svg) of every plot for which the result has figures, in the order of a page."""
    need_matplotlib()
    found = []
    with matplotlib.rc_context(STYLE):
        for backing, slug in slugs(result).items():
            for job in close_jobs(result, backing):
                name = f"{slug}-payers-{_slug(job.name)}"
                found.append((name, f"Cost per I/O on {backing}, stacked by who pays; {job.name}.", payers(result, backing, job, name)))
            found += _curves(result, backing, slug)
            found.append((f"{slug}-latency", f"Latency percentiles on {backing}.",
                          latency(result, backing, [Job("read", 4096, 1), Job("read", 4096, 32)], f"{slug}-latency")))
    return [plot for plot in found if plot[2]]


def standalone(svg):
    """An SVG as a file of its own: readable in whatever it is shown, so with a background."""
    return re.sub(r"(<svg\b[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1, flags=re.S)


def inline(svg):
    """An SVG inside a page: no prologue."""
    return svg[svg.index("<svg"):]


def dark_css():
    """Rules for a page's plots on a dark ground. The colours stay in the plots, for what knows no rules."""
    return "\n".join(f' svg [style*="{what}: {light}"] {{ {what}: {dark} !important; }}'
                     for light, dark in ON_DARK.items() for what in ("fill", "stroke"))
