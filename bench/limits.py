# SPDX-License-Identifier: MIT
"""What is promised of speed and memory, and whether a result keeps it."""

# program / other path, at most, on null_blk completing inline, reads and writes
RATIOS = {
    "kernel loop": {(4096, 1): 0.50, (65536, 1): 0.70, (4096, 32): 0.97, (65536, 32): 1.00},
    "server": {(4096, 1): 0.38, (65536, 1): 0.45, (4096, 32): 0.67, (65536, 32): 0.58},
}
FILE_RATIO = 0.97  # program / kernel loop on a file on ext4, in the default mode
PEER_RATIO = 1.00  # our server / kublk, on the same data path
# Our null target as it is by default. kublk completes reads on the request's own pages without touching them, so a reader gets whatever they
# held before, in the page cache other processes' data; ours reads zeroes into them.
ZEROED_RATIO = 1.20
OVER_RAW_INSNS = 3000  # program less raw device, 4k
OVER_RAW_GOAL_INSNS = 2000
NO_PROGRAM_RATIO = 1.01  # server path of a device that could have a program / one that cannot
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


def where(cell):
    return f"{cell['backing']}, {cell['rw']} {cell['bs'] >> 10}k QD{cell['qd']}"


class Figures:
    """The cells of a result, by what they are of."""

    def __init__(self, cells):
        self.cells = {(c["backing"], c["path"], c["rw"], c["bs"], c["qd"]): c for c in cells if c.get("engine", "io_uring") == "io_uring"}

    def insns(self, backing, path, rw, bs, qd):
        return self.cells[backing, path, rw, bs, qd]["insns_per_io"]

    def of(self, backing, path):
        return [c for (b, p, *_), c in self.cells.items() if (b, p) == (backing, path)]

    def ratios(self, backing, path, other, limit_of):
        """A check for each job that both have."""
        for c in self.of(backing, path):
            job = c["rw"], c["bs"], c["qd"]
            if (backing, other, *job) in self.cells:
                yield check(
                    f"{path} / {other}",
                    round(c["insns_per_io"] / self.insns(backing, other, *job), 3),
                    limit_of(c["bs"], c["qd"]),
                    where=where(c),
                )


def unless_within_spread(broken, cells):
    """Nothing measurable: what differs less than the rounds of one path among themselves is called equal."""
    spread = max(c["spread"] for c in cells if c["path"].startswith("server") and where(c) == broken["where"])
    return {**broken, "ok": broken["value"] - 1 <= spread, "note": f"the rounds differ by {spread:.1%}"}


def judge_peers(figures):
    """Our server and kublk, path by path."""
    checks = []
    for backing in ("null target", "loop target"):
        for data_path in ("copy", "zero-copy", "auto-zero-copy"):
            checks += figures.ratios(backing, f"server, {data_path}", f"kublk, {data_path}", lambda bs, qd: PEER_RATIO)
    for data_path in ("zero-copy", "auto-zero-copy"):
        checks += figures.ratios("null target", f"server, {data_path}, zeroes", f"kublk, {data_path}", lambda bs, qd: ZEROED_RATIO)
    return checks


def judge_cells(cells):
    """Checks of what was counted; a path that was not measured has none."""
    figures = Figures(cells)
    checks = []
    for other, limits in RATIOS.items():
        checks += figures.ratios("null_blk", "program", other, lambda bs, qd, limits=limits: limits[bs, qd])
    for c in figures.of("null_blk", "program"):
        if c["bs"] == 4096:
            over = c["insns_per_io"] - figures.insns("null_blk", "raw", c["rw"], c["bs"], c["qd"])
            goal = "" if over <= OVER_RAW_GOAL_INSNS else f"the goal is {OVER_RAW_GOAL_INSNS}"
            checks.append(check("program - raw", round(over), OVER_RAW_INSNS, where(c), unit="insns", note=goal))
    checks += figures.ratios("file on ext4", "program", "kernel loop", lambda bs, qd: FILE_RATIO)
    for c in figures.ratios("null_blk", "server", "server, --no-bpf", lambda bs, qd: NO_PROGRAM_RATIO):
        checks.append(c if c["ok"] else unless_within_spread(c, cells))
    checks += judge_peers(figures)
    redirected = [c for c in cells if c["path"].startswith("program") and c["server_wakeups"] is not None]
    if redirected:
        ios = sum(c["ios"] * len(c["rounds"]) for c in redirected)
        woken = sum(c["server_wakeups"] for c in redirected)
        checks.append(check("server wake-ups under redirected I/O", woken, 0, f"in {ios} I/Os"))
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
