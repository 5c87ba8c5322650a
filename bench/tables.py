# SPDX-License-Identifier: MIT
"""
The tables of a result of `ublk-bpf bench`, as rows of strings: bench/report.py prints them, perfdoc.py and page.py typeset them.
What a result does not have, has no row or column.
"""

from result import PAYERS, Job, cost_of

MANY_JOBS = 6  # columns that fit a terminal, each with its ratio
# where the cost is looked at closely, as far as these were measured
CLOSE = [Job("read", 4096, 1), Job("read", 4096, 32), Job("read", 65536, 1), Job("read", 65536, 32)]
FAMILIES = [
    ("random I/O with libaio", lambda j: j.engine == "libaio"),
    ("random reads at QD1, by block size", lambda j: j.rw == "read" and j.qd == 1 and _plain(j)),
    ("random reads by depth", lambda j: j.rw == "read" and _plain(j)),
    ("random writes", lambda j: j.rw == "write" and _plain(j)),
    ("sequential and mixed", lambda j: j.devices == 1 and j.queues == 1),
    ("more queues and devices", lambda j: True),
]


def _plain(job):
    return job.pattern == "random" and job.queues == 1 and job.devices == 1 and job.engine == "io_uring"


def families(jobs):
    """The jobs in groups that can stand side by side; each job is in one."""
    left, groups = sorted(jobs, key=lambda j: (j.rw, j.pattern, j.queues, j.bs, j.qd, j.devices)), []
    for title, fits in FAMILIES:
        mine = [j for j in left if fits(j)]
        left = [j for j in left if not fits(j)]
        for first in range(0, len(mine), MANY_JOBS):
            groups.append((title, mine[first:first + MANY_JOBS]))
    return sorted(groups, key=lambda g: g[0] == FAMILIES[0][0])  # what is not usual comes last


def figure(value):
    """A figure with three digits or so: 88, 7.24k, 346k, 1.21M."""
    for least, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= least * 0.9995:
            scaled = value / least
            return f"{scaled:.0f}{letter}" if scaled >= 99.95 else f"{scaled:.1f}{letter}" if scaled >= 9.995 else f"{scaled:.2f}{letter}"
    return f"{value:.0f}" if abs(value) >= 10 or value == 0 else f"{value:.2g}"


def per_io(value):
    """A number of events: 0, 1, 2.03."""
    return "" if value is None else "0" if value == 0 else f"{value:.2f}" if value >= 0.005 else "<0.01"


def ratio_text(found):
    """What Result.ratio found: '=' for what is within the spread."""
    return "" if found is None else f"{found[0]:.2f}" if found[1] else "="


def program_of(result, backing):
    return "program" if "program" in result.paths(backing) else None


def cost_tables(result, backing):
    """(title, rows) of each family of jobs: a row per path, for each job its cost and what the program's is of it."""
    program, tables = program_of(result, backing), []
    for title, jobs in families(result.jobs(backing)):
        rows = [["path"]]
        for job in jobs:
            rows[0] += [job.name] + (["p/"] if program else [])
        rows[0].append("spread")
        for path in result.paths(backing):
            row = [path]
            for job in jobs:
                cost = result.cost(backing, path, job)
                row.append("" if cost is None else figure(cost))
                if program:
                    row.append("" if path == program else ratio_text(result.ratio(backing, program, path, job)))
            if any(row[1:]):
                spreads = [result.spread(backing, path, j) for j in jobs if result.cell(backing, path, j)]
                rows.append(row + [f"{max(spreads):.1%}"])
        tables.append((title, rows))
    return tables


def close_jobs(result, backing):
    """Where the cost is looked at closely: those of CLOSE that were measured, else the first, and one with the most devices."""
    jobs = result.jobs(backing)
    most = max((j.devices for j in jobs), default=1)
    many = [j for j in jobs if j.devices == most > 1][:1]
    return ([j for j in CLOSE if j in jobs] or jobs[:1]) + [j for j in many if j != jobs[0]]


def payers_rows(result, backing, job):
    """Who pays of the cost: a row per path that was looked at, or None."""
    looked = [p for p in result.paths(backing) if result.figure(backing, p, job, "payers")]
    if not looked:
        return None
    used = [n for n in PAYERS if any(result.figure(backing, p, job, "payers", n) for p in looked)]
    rows = [["path"] + [PAYERS[n] for n in used] + ["all", "server's share"]]
    for path in looked:
        payers = result.figure(backing, path, job, "payers")
        rows.append([path] + [figure(payers.get(n) or 0) for n in used] + [figure(result.cost(backing, path, job)),
                                                                         f"{server_share(result, backing, path, job):.0%}"])
    return rows


def server_cost(result, backing, path, job):
    """What the server executes per I/O, user and system, or None if that was not looked at."""
    payers = result.figure(backing, path, job, "payers")
    return (payers.get("server_user") or 0) + (payers.get("server_system") or 0) if payers else None


def server_share(result, backing, path, job):
    cost = server_cost(result, backing, path, job)
    return None if cost is None else cost / result.cost(backing, path, job)


def _us(ns):
    return "" if ns is None else f"{ns / 1000:.3g}" if ns < 999500 else f"{ns / 1000:.0f}"


def _count(value):
    return "" if value is None else figure(value)


# header, and how a cell's text is got of (result, backing, path, job)
OTHERS = [
    ("calls: submitter", lambda *at: per_io(_get(at, "syscalls_per_io", "submitter"))),
    ("server", lambda *at: per_io(_get(at, "syscalls_per_io", "server"))),
    ("switches", lambda *at: per_io(_get(at, "context_switches_per_io"))),
    ("wake-ups: submitter", lambda *at: per_io(_get(at, "wakeups_per_io", "submitter"))),
    ("server", lambda *at: per_io(_get(at, "wakeups_per_io", "server"))),
    ("threads", lambda *at: per_io(_get(at, "wakeups_per_io", "kernel_threads"))),
    ("bytes copied", lambda *at: _count(_get(at, "copied_bytes_per_io"))),
    ("IOPS", lambda *at: _count(_get(at, "iops"))),
    ("p50 us", lambda *at: _us(_get(at, "latency_ns", "p50"))),
    ("p99 us", lambda *at: _us(_get(at, "latency_ns", "p99"))),
    ("p99.9 us", lambda *at: _us(_get(at, "latency_ns", "p99_9"))),
    ("cycles", lambda *at: _count(_get(at, "events_per_io", "cycles"))),
    ("cache misses", lambda *at: per_io(_get(at, "events_per_io", "cache-misses"))),
    ("dTLB misses", lambda *at: per_io(_get(at, "events_per_io", "dTLB-load-misses"))),
    ("server MiB", lambda *at: _mib(_server_bytes(*at))),
    ("machine MiB", lambda *at: _mib(_get(at, "memory", "machine_bytes"))),
]


def _get(at, *names):
    return at[0].figure(*at[1:], *names)


def _server_bytes(result, backing, path, job):
    """Of each device; old results have it of each path."""
    cell = result.cell(backing, path, job)
    return result.memory(path, backing) if "memory" not in cell else (cell["memory"] or {}).get("server_rss_bytes")


def _mib(value):
    return "" if value is None else f"{value / (1 << 20):.1f}"


def other_rows(result, backing, job):
    """System calls, switches, wake-ups, copies, rates and latencies: a column for each figure that anything has, or None."""
    paths = [p for p in result.paths(backing) if result.cell(backing, p, job)]
    columns = [(name, [of(result, backing, p, job) for p in paths]) for name, of in OTHERS]
    columns = [(name, texts) for name, texts in columns if any(texts)]
    if not columns:
        return None
    return [["path"] + [name for name, _ in columns]] + [[p] + [texts[n] for _, texts in columns] for n, p in enumerate(paths)]


def absent_rows(result):
    absent = result.data.get("absent") or []
    return [["path", "why it is absent"]] + [[a["path"], a["why"]] for a in absent] if absent else None


def check_rows(result):
    """The limits and whether they are kept, or None if nothing was judged."""
    checks = result.data.get("checks") or []
    rows = [["what", "where", "value", "limit", "verdict"]]
    for c in checks:
        verdict = ("OK" if c["ok"] else "BROKEN") + (f" ({c['note']})" if c["note"] else "")
        rows.append([c["name"], c["where"], f"{c['value']:g} {c['unit']}".strip(), f"{c['limit']:g}", verdict])
    return rows if checks else None


def generator_rows(result):
    own = {Job(g["rw"], g["bs"], g["qd"]): g["insns_per_io"] for g in result.data.get("generator_part") or []}
    return [["generator's own part", "instructions per I/O"]] + [[j.name, figure(v)] for j, v in own.items()] if own else None


def unchecked(result):
    """By backing, the paths whose data was not looked at; a target that keeps nothing has none to look at."""
    found = {}
    for p in result.data.get("paths") or []:
        if p.get("checked") is False and p.get("backing") != "null target":
            found.setdefault(str(p.get("backing") or "?"), []).append(p["name"])
    return found


def looked_note(result):
    """How it was found out who pays, and how much the looking itself changed; or None."""
    factors = sorted(c["traced_cost_per_io"] / cost_of(c) for c in result.cells.values() if c.get("payers") and c.get("traced_cost_per_io"))
    if not any(c.get("payers") for c in result.cells.values()):
        return None
    note = ("Who pays was looked at apart, by a BPF program at each system call, switch and interrupt (bench/payers.bpf.c), and the shares scaled to what "
            "was counted without it.")
    if factors:
        note += (f" Looking makes an I/O cost {factors[len(factors) // 2]:.2f} times as much (median; {factors[0]:.2f} to {factors[-1]:.2f}), most where there "
                 "are many system calls and switches, so these have rather too large a share.")
    return note


def path_rows(result):
    """What each path is, or None."""
    paths = result.data.get("paths") or []
    rows = [["path", "backing", "what", "data checked"]]
    rows += [[p["name"], p.get("backing") or "", p.get("what") or "", {True: "yes", False: "no"}.get(p.get("checked"), "")] for p in paths]
    return rows if paths else None
