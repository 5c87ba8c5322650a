# SPDX-License-Identifier: MIT
"""What is promised of speed and memory, and whether a result keeps it."""

from dataclasses import dataclass, field


def everywhere(one, deep):
    """The same limit for 4k and 64k, at QD1 and at QD32."""
    return {(bs, qd): limit for bs in (4096, 65536) for qd, limit in ((1, one), (32, deep))}


@dataclass(frozen=True)
class Ratio:
    """Cost of a path over that of another, at most."""

    path: str
    other: str
    limits: dict  # by block size and depth; where there is none nothing is promised
    backing: str = "null_blk"
    engines: tuple = ("io_uring",)
    rws: tuple = ("read", "write")
    goals: dict = field(default_factory=dict)  # what is aimed at beyond the limit


FILE = "file on ext4"
IN_MEMORY = "file in memory"
BOTH = ("io_uring", "libaio")
RATIOS = [
    Ratio("program", "kernel loop", {(4096, 1): 0.50, (65536, 1): 0.70, (4096, 32): 0.97, (65536, 32): 1.00}),
    Ratio("program", "server", {(4096, 1): 0.38, (65536, 1): 0.45, (4096, 32): 0.67, (65536, 32): 0.58}),
    Ratio("program", "dm-linear", everywhere(1.00, 1.00), engines=BOTH, goals=everywhere(0.95, 0.94)),
    # The others by libaio only: io_uring leaves most of them to workers.
    Ratio("program, stripe", "dm-stripe", everywhere(1.00, 1.00), engines=("libaio",)),
    Ratio("program, mirror", "dm-mirror", everywhere(0.40, 0.80), engines=("libaio",), rws=("write",)),
    Ratio("program, mirror", "md raid1", everywhere(0.85, 0.80), engines=("libaio",), rws=("write",)),
    Ratio("program, mirror", "dm-mirror", everywhere(1.00, 1.00), engines=("libaio",), rws=("read",)),
    # A file, all of it written before, whose device nobody has claimed; with a file system mounted on it; cached.
    Ratio("program", "kernel loop", {(4096, 1): 0.55, (4096, 32): 0.97, (65536, 1): 0.97, (65536, 32): 0.97}, backing=FILE),
    Ratio("program, mounted", "kernel loop", {(4096, 1): 0.60, (4096, 32): 0.95}, backing=FILE, rws=("read",)),
    Ratio("program, buffered", "kernel loop, buffered", {(4096, 1): 0.80, (4096, 32): 0.90}, backing=FILE, rws=("read",)),
    # Blocks that a clone finds in its layer, or below it.
    Ratio("clone, base", "program", everywhere(1.05, 1.05), backing=FILE, rws=("read",)),
    Ratio("clone, delta", "program, layer", everywhere(1.05, 1.05), backing=FILE),
    # Blocks that are marked already.
    Ratio("program, track", "program", everywhere(1.05, 1.05), backing=FILE),
]
# Of bench/run --clones. Blocks of the layer or below it, and blocks that are written the first time.
FIRST = ("first write",)
CLONE_RATIOS = [
    Ratio("clone, base", "dm-snapshot, origin", everywhere(0.95, 0.90), engines=BOTH, rws=("read",)),
    Ratio("clone, base", "dm-snapshot", everywhere(0.95, 0.90), engines=BOTH, rws=("read",)),
    Ratio("clone, base", "dm-thin", everywhere(0.60, 0.58), engines=BOTH, rws=("read",)),
    Ratio("clone, delta", "dm-snapshot", everywhere(0.95, 0.90), backing=FILE, engines=BOTH),
    Ratio("clone, delta", "qemu-nbd, qcow2", everywhere(0.20, 0.20), backing=IN_MEMORY),
    Ratio("clone", "dm-snapshot", everywhere(0.60, 0.60), backing=IN_MEMORY, engines=BOTH, rws=FIRST),
    Ratio("clone", "qemu-nbd, qcow2", everywhere(0.40, 0.40), backing=IN_MEMORY, engines=BOTH, rws=FIRST),
]
ADD_CLONE_MS = 20  # until the first read has ended, at an instruction a nanosecond
PAUSE_MS = 100  # of an I/O while a clone is snapshotted, forked or reset, at an instruction a nanosecond, all on one processor
CLONE_BYTES = 1 << 20  # of memory, beside its bitmap
PEER_RATIO = 1.00  # our server / kublk, on the same data path
# Our null target as it is by default. kublk completes reads on the request's own pages without touching them, so a reader gets whatever they
# held before, in the page cache other processes' data; ours reads zeroes into them.
ZEROED_RATIO = 1.20
OVER_RAW_INSNS = 3000  # program less raw device, 4k
OVER_RAW_GOAL_INSNS = 2000
COMPLETION_INSNS = 150  # with a completion program that does nothing, less without
NO_PROGRAM_INSNS = 30  # server path of a device that could have a program, less one that cannot
PDU_BYTES = 1024
ATTACH_MS = 10
IDLE_SERVED_NS = 2000  # a second, of a server that has had I/O of its own; one that has not: nothing


def check(name, value, limit, where="", ok=None, unit="", note=""):
    return {
        "name": name,
        "where": where,
        "value": value,
        "limit": limit,
        "unit": unit,
        "ok": (value <= limit) if ok is None else ok,
        "note": note,
    }


def engine_of(cell):
    """Old results do not say it."""
    return cell.get("engine") or "io_uring"


def where(cell):
    by = "" if engine_of(cell) == "io_uring" else f", {engine_of(cell)}"
    return f"{cell['backing']}, {cell['rw']} {cell['bs'] >> 10}k QD{cell['qd']}{by}"


def goal_note(value, goal):
    return f"the goal is {goal}" if goal is not None and value > goal else ""


def is_plain(cell):
    """One device with one queue, at random: what limits are about."""
    return (cell.get("devices") or 1, cell.get("queues") or 1, cell.get("pattern") or "random") == (1, 1, "random")


class Figures:
    """The cells of a result, by what they are of."""

    def __init__(self, cells):
        self.cells = {(c["backing"], c["path"], c["rw"], c["bs"], c["qd"], engine_of(c)): c for c in cells if is_plain(c)}

    def pairs(self, backing, path, other):
        """The cells of two paths, for each job that both have."""
        for (b, p, *job), c in self.cells.items():
            if (b, p) == (backing, path) and (backing, other, *job) in self.cells:
                yield c, self.cells[backing, other, *job]

    def ratios(self, promise):
        """A check for each job of which something is promised."""
        for c, other in self.pairs(promise.backing, promise.path, promise.other):
            at = c["bs"], c["qd"]
            if at in promise.limits and engine_of(c) in promise.engines and c["rw"] in promise.rws:
                value = round(c["insns_per_io"] / other["insns_per_io"], 3)
                yield check(f"{promise.path} / {promise.other}", value, promise.limits[at], where(c), note=goal_note(value, promise.goals.get(at)))

    def differences(self, path, other, limit, goal=None, sizes=(4096, 65536)):
        """A check for each job that both have on null_blk, of the instructions that a path takes more."""
        for c, less in self.pairs("null_blk", path, other):
            if c["bs"] in sizes and c["qd"] in (1, 32) and c["rw"] != "mixed":
                value = round(c["insns_per_io"] - less["insns_per_io"])
                yield check(f"{path} - {other}", value, limit, where(c), unit="insns", note=goal_note(value, goal))


def unproved(cells, promises=RATIOS):
    """What is promised of jobs that these cells are not of, a phrase for each job."""
    figures = Figures(cells)
    return [f"{p.path} / {p.other}: {where({'backing': p.backing, 'rw': rw, 'bs': bs, 'qd': qd, 'engine': engine})}"
            for p in promises for engine in p.engines for rw in p.rws for bs, qd in p.limits
            if any((p.backing, path, rw, bs, qd, engine) not in figures.cells for path in (p.path, p.other))]


def judged_again(data):
    """Checks of an old result by what is promised now; what cells do not tell stands as it was judged."""
    fresh = (judge_clones if data.get("set") == "clones" else judge_cells)(data["cells"])
    known = {(c["name"], c["where"]) for c in fresh}
    return fresh + [c for c in data.get("checks") or [] if (c["name"], c["where"]) not in known]


def unless_within_spread(broken, cells):
    """Nothing measurable: what differs less than the rounds of one path among themselves is called equal."""
    rounds = [c["rounds"] for c in cells if c["path"].startswith("server") and where(c) == broken["where"] and is_plain(c)]
    spread = max(round(max(r) - min(r)) for r in rounds)
    return {**broken, "ok": broken["value"] <= spread, "note": f"the rounds differ by {spread}"}


def judge_peers(figures):
    """Our server and kublk, path by path."""
    checks, depths = [], {(4096, 1): PEER_RATIO, (4096, 32): PEER_RATIO}
    for backing in ("null target", "loop target"):
        for data_path in ("copy", "zero-copy", "auto-zero-copy"):
            checks += figures.ratios(Ratio(f"server, {data_path}", f"kublk, {data_path}", depths, backing))
    for data_path in ("zero-copy", "auto-zero-copy"):
        zeroed = dict.fromkeys(depths, ZEROED_RATIO)
        checks += figures.ratios(Ratio(f"server, {data_path}, zeroes", f"kublk, {data_path}", zeroed, "null target"))
    return checks


def judge_cells(cells):
    """Checks of what was counted; a path that was not measured has none."""
    figures = Figures(cells)
    checks = [c for promise in RATIOS for c in figures.ratios(promise)]
    checks += figures.differences("program", "raw", OVER_RAW_INSNS, OVER_RAW_GOAL_INSNS, sizes=(4096,))
    checks += figures.differences("program, completion", "program", COMPLETION_INSNS)
    # each with writeback throttled, which a device that may have a program is not by default
    for c in figures.differences("server, throttled", "server, --no-bpf", NO_PROGRAM_INSNS):
        checks.append(c if c["ok"] else unless_within_spread(c, cells))
    checks += judge_peers(figures)
    redirected = [c for c in cells if c["path"].startswith(("program", "clone")) and c["path"] != "program, passing" and c["server_wakeups"] is not None]
    if redirected:
        ios = sum(c["ios"] * len(c["rounds"]) for c in redirected)
        woken = sum(c["server_wakeups"] for c in redirected)
        checks.append(check("server wake-ups under redirected I/O", woken, 0, f"in {ios} I/Os"))
    return checks


def judge_clones(cells):
    """Checks of what bench/run --clones counted."""
    figures = Figures(cells)
    checks = [c for promise in CLONE_RATIOS for c in figures.ratios(promise)]
    for rws, what in ((("read", "write"), "server wake-ups of hits"), (FIRST, "server wake-ups of first writes of whole blocks")):
        mine = [c for c in cells if c["rw"] in rws and c["server_wakeups"] is not None]
        if mine:
            checks.append(check(what, sum(c["server_wakeups"] for c in mine), 0, f"in {sum(c['ios'] * len(c['rounds']) for c in mine)} I/Os"))
    return checks


def judge_device(device):
    """Checks of what a device says of itself: memory, attach, idle."""
    attach = device["attach_ms"]
    checks = [check("driver data per request", device["pdu_bytes"], PDU_BYTES, unit="bytes")]
    for what, times in attach.items():
        checks.append(check(f"attach, {what}", max(times), ATTACH_MS, f"worst of {len(times)}", unit="ms"))
    for which, idle in device["idle"].items():
        where = f"{which}, {idle['seconds']} s"
        # what io_uring once did in a worker leaves that worker, which looks around every 5 s
        limit = 0 if which == "with a program" else IDLE_SERVED_NS * idle["seconds"]
        checks.append(check("idle server's CPU time", idle["server_cpu_ns"], limit, where, unit="ns"))
        checks.append(check("idle server's wake-ups", idle["server_wakeups"], 0, where))
    return checks
