# SPDX-License-Identifier: MIT
"""Runs the generator on devices, round by round, and keeps what each round said."""

import json
import statistics
import subprocess
from dataclasses import dataclass, field, replace

from lab import Failed, Interruption, built

LOAD = built("load")
SPAN_BYTES = 16 << 20


@dataclass(frozen=True)
class Job:
    """One column of the table."""

    rw: str  # read, write, mixed
    bs: int
    qd: int  # on each device
    count: int
    pattern: str = "random"  # or sequential
    steady: bool = False  # as many as are in flight go before and follow
    engine: str = "io_uring"  # or libaio

    @property
    def name(self):
        return f"{self.bs >> 10}k QD{self.qd}"

    @property
    def all_ios(self):
        """With the generator's warm-up."""
        return self.count + self.count // 8 + 1


COLUMNS = [(4096, 1, 1600), (65536, 1, 1600), (4096, 32, 4800), (65536, 32, 1200)]
JOBS = [Job(rw, *column) for rw in ("read", "write") for column in COLUMNS]
AIO_JOBS = [replace(j, engine="libaio") for j in JOBS]
PEER_JOBS = [j for j in JOBS if j.bs == 4096]


# A server's buffer costs page faults when it is used for the first time; no round should have them.
WARM_UP = Job("read", 65536, 128, 1024)


@dataclass
class Path:
    """One row: a way to the same backing."""

    backing: str
    name: str
    node: str
    device: object = None  # lab.Ublk, for the server's wake-ups
    nodes: list = None  # of several devices; node is the first
    devices: int = 1
    queues: int = 1
    first_bytes: int = 0  # where it is measured, of SPAN_BYTES
    reads_only: bool = False  # it cannot be written, or what is written is not at once
    waits: bool = False  # for a disk, whose time is not ours
    memory: dict = None  # bytes of each device: of its server, of the machine


@dataclass
class Cell:
    """What was counted for one path and one job."""

    path: Path
    job: Job
    rounds: list = field(default_factory=list)  # instructions per I/O
    enters: list = field(default_factory=list)
    switches: list = field(default_factory=list)
    wakeups: list = field(default_factory=list)  # of the server, in all of a round
    wall: float = 0  # ns per I/O, of the last round
    more: dict = field(default_factory=dict)  # what else the result says of it

    @property
    def insns(self):
        return statistics.median(self.rounds)

    @property
    def spread(self):
        """Of the rounds: largest less smallest, over the median."""
        return (max(self.rounds) - min(self.rounds)) / self.insns

    def to_json(self):
        mean = lambda values: round(statistics.mean(values), 4) if values else None  # noqa: E731
        return {
            "backing": self.path.backing,
            "path": self.path.name,
            "rw": self.job.rw,
            "bs": self.job.bs,
            "qd": self.job.qd,
            "engine": self.job.engine,
            "ios": self.job.count,
            "insns_per_io": round(self.insns, 1),
            "spread": round(self.spread, 4),
            "rounds": [round(r, 1) for r in self.rounds],
            "enters_per_io": mean(self.enters),
            "switches_per_io": mean(self.switches),
            "server_wakeups": sum(self.wakeups) if self.wakeups else None,
            "server_wakeups_per_io": mean([w / self.job.all_ios for w in self.wakeups]),
            **self.more,
        }


# What goes before the generator's command line: on a host, what keeps it on one processor.
ON_PROCESSOR = []


def stay_on(cpu):
    ON_PROCESSOR[:] = ["taskset", "-c", str(cpu)]


def load_argv(nodes, job, first_bytes=0):
    """The generator's command line. SPAN_BYTES of each device are used."""
    options = {"rw": job.rw, "engine": job.engine, "bs": job.bs, "qd": job.qd, "ios": job.count, "first": first_bytes, "span": SPAN_BYTES}
    flags = ["--sequential"] * (job.pattern == "sequential") + ["--steady", "--small-pages"] * job.steady
    return [*ON_PROCESSOR, LOAD, *(f"--{name}={value}" for name, value in options.items()), *flags, *nodes]


def load(nodes, job, split=False, first_bytes=0):
    nodes = [nodes] if isinstance(nodes, str) else nodes
    argv = load_argv(nodes, job, first_bytes) + (["--split"] if split else [])
    Interruption.act()
    done = subprocess.run(argv, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def load_path(path, job):
    return load(path.nodes or path.node, job, first_bytes=path.first_bytes)


def one_round(cell):
    device = cell.path.device
    before = device.wakeups() if device else 0
    seen = load_path(cell.path, cell.job)
    if device:
        cell.wakeups.append(device.wakeups() - before)
    cell.rounds.append(seen["ns"] / seen["ios"])
    cell.enters.append(seen["enters"] / seen["ios"])
    cell.switches.append(seen["switches"] / seen["ios"])
    return seen


def rounds(paths, cells, times, progress, take=one_round, rws=("read", "write")):
    """All paths in each round, so that what drifts drifts for all of them."""
    progress("uses every tag of every path once")
    for path in paths:
        # of many devices each has 32 tags (bench/paths.py)
        warm_up = WARM_UP if path.devices == 1 else replace(WARM_UP, qd=32, count=96 * path.devices)
        for rw in rws:
            if rw == "read" or not path.reads_only:
                load_path(path, replace(warm_up, rw=rw))
    for n in range(times):
        progress(f"round {n + 1} of {times}: {len(cells)} figures")
        for cell in cells:
            take(cell)


def measure(paths, jobs, times, progress):
    cells = [Cell(path, job) for job in jobs for path in paths if job.rw == "read" or not path.reads_only]
    rounds(paths, cells, times, progress)
    return cells


def generator_part(node, jobs):
    """Instructions per I/O that the generator itself executes in user space, by job."""
    part = []
    for job in jobs:
        # the same I/O counted with and without a look at the clock around each system call: the least of three is undisturbed
        inside = min(seen["kernel_ns"] / seen["ios"] for seen in (load(node, job, split=True) for _ in range(3)))
        whole = min(seen["ns"] / seen["ios"] for seen in (load(node, job) for _ in range(3)))
        part.append({"rw": job.rw, "bs": job.bs, "qd": job.qd, "engine": job.engine, "insns_per_io": round(whole - inside, 1)})
    return part
