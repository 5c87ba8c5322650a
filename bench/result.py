# SPDX-License-Identifier: MIT
"""
A result (bench/README.md) read back: whatever works on one gets it here, with one view on old and new ones, and one
clear line (Unusable) for what is not a result.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

VERSION = 1
PAYERS = {
    "submitter_user": "submitter, user",
    "submitter_system": "submitter, system",
    "server_user": "server, user",
    "server_system": "server, system",
    "kernel_threads": "kernel threads",
    "interrupts": "interrupts",
    "other": "other",
}
UNITS = {"instructions": "instructions", "cpu_ns": "ns of CPU time"}
COUNTED_ONLY = "instructions"


class Unusable(Exception):
    """No result, or not one that this program understands. `hint` says what can be done."""

    def __init__(self, message, hint):
        super().__init__(f"{message}: {hint}")
        self.message, self.hint = message, hint


def size_name(size_bytes):
    """The way the tables write block sizes: 512 B, 4k, 2M."""
    for shift, letter in ((20, "M"), (10, "k")):
        if size_bytes >= 1 << shift and size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{letter}"
    return f"{size_bytes} B"


@dataclass(frozen=True, order=True)
class Job:
    """What a cell did. What old results do not say is what they all had."""

    rw: str
    bs: int
    qd: int
    pattern: str = "random"
    queues: int = 1
    devices: int = 1
    engine: str = "io_uring"

    @property
    def name(self):
        name = f"{self.rw} {size_name(self.bs)} QD{self.qd}"
        if self.pattern != "random":
            name += f" {self.pattern}"
        if self.queues != 1:
            name += f", {self.queues} queues"
        name += f", {self.devices} devices" if self.devices != 1 else ""
        return name + (f", {self.engine}" if self.engine != "io_uring" else "")


def job_of(cell):
    return Job(cell["rw"], cell["bs"], cell["qd"], cell.get("pattern") or "random", cell.get("queues") or 1, cell.get("devices") or 1,
               cell.get("engine") or "io_uring")


def cost_of(cell):
    """In the result's unit, or None: an interrupted result has cells without."""
    cost = cell.get("cost_per_io")
    return cell.get("insns_per_io") if cost is None else cost


def _number(value):
    return not isinstance(value, bool) and isinstance(value, (int, float))


def _count(value):
    return not isinstance(value, bool) and isinstance(value, int) and value > 0


def _text(value):
    return isinstance(value, str)


def _numbers(value):
    """An object whose values are numbers, or null."""
    return isinstance(value, dict) and all(v is None or _number(v) for v in value.values())


def _list_of(**names):
    def fits(value):
        return isinstance(value, list) and all(isinstance(v, dict) and all(n in v and test(v[n]) for n, test in names.items()) for v in value)
    return fits


CELL = {"backing": _text, "path": _text, "rw": _text, "bs": _count, "qd": _count}
CELL_OPTIONAL = {
    "pattern": _text, "engine": _text, "queues": _count, "devices": _count, "cost_per_io": _number, "insns_per_io": _number, "spread": _number,
    "payers": _numbers, "syscalls_per_io": _numbers, "wakeups_per_io": _numbers, "latency_ns": _numbers, "events_per_io": _numbers, "memory": _numbers,
    "context_switches_per_io": _number, "copied_bytes_per_io": _number, "iops": _number, "bytes_per_s": _number,
    "traced_cost_per_io": _number,
}
OPTIONAL = {
    "kernel": _text, "face": _text, "set": _text, "unit": _text, "interrupted": lambda v: isinstance(v, bool),
    "program": lambda v: isinstance(v, dict), "generator": lambda v: isinstance(v, dict), "host": lambda v: isinstance(v, dict),
    "settings": lambda v: isinstance(v, dict), "backings": lambda v: isinstance(v, dict) and all(map(_text, v.values())),
    "notes": lambda v: isinstance(v, list) and all(map(_text, v)),
    "paths": _list_of(name=_text, backing=_text, what=_text, checked=lambda v: isinstance(v, bool)), "absent": _list_of(path=_text, why=_text),
    "unproved": lambda v: isinstance(v, list) and all(map(_text, v)),
    "scaling": _list_of(path=_text, queues=_count, iops_one=_number, iops_two=_number, scales=_number, waits_per_1000_ios=lambda v: v is None or _number(v)),
    "generator_part": _list_of(rw=_text, bs=_count, qd=_count, insns_per_io=_number),
    "checks": _list_of(name=_text, where=_text, value=_number, limit=_number, unit=_text, ok=lambda v: isinstance(v, bool), note=_text),
}


def _check(found, required, optional, where):
    """What is required and wrong or missing, or optional and wrong, as a phrase; or None. Null is the same as absent."""
    for name, test in required.items():
        if name not in found or not test(found[name]):
            return f"{where}{name} is {'missing' if name not in found else 'not what it should be'}"
    for name, test in optional.items():
        if found.get(name) is not None and not test(found[name]):
            return f"{where}{name} is not what it should be"
    return None


def _clean(value):
    """Strings without what a terminal or a browser would take for more than text: a result may come from anywhere."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in value)
    if isinstance(value, list):
        return [_clean(v) for v in value]
    if isinstance(value, dict):
        return {_clean(k): _clean(v) for k, v in value.items()}
    return value


def _no_constant(name):
    raise ValueError(f"{name} is not a figure")


def _read(path):
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise Unusable(f"{path}: reading a result: {e.strerror}", "give a file that `ublk-bpf bench --json` or bench/run --json wrote") from e
    except UnicodeDecodeError as e:
        raise Unusable(f"{path}: reading a result: it is not text", "give the JSON of a result") from e
    if not text.strip():
        raise Unusable(f"{path}: reading a result: the file is empty", "the run that should have written it had no result; measure again")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        cut = isinstance(e, json.JSONDecodeError) and (e.pos >= len(text.rstrip()) or e.msg.startswith("Unterminated"))
        hint = "the file is cut short; measure or copy it again" if cut else "it is not JSON; give the JSON of a result"
        where = f"line {e.lineno}: {e.msg}" if isinstance(e, json.JSONDecodeError) else str(e)
        raise Unusable(f"{path}: reading a result: {where}", hint) from e


def _validated(data, path):
    if not isinstance(data, dict) or "version" not in data:
        raise Unusable(f"{path}: reading a result: it has no `version`", "it is not a result of bench; give one")
    if data["version"] != VERSION:
        raise Unusable(f"{path}: reading a result: its version is {str(data['version'])[:40]}, and {VERSION} is known here",
                       "use the ublk-bpf that wrote it, or measure again")
    wrong = _check(data, {"cells": lambda v: isinstance(v, list) and all(isinstance(c, dict) for c in v)}, OPTIONAL, "")
    for n, cell in enumerate(data["cells"] if not wrong else []):
        wrong = wrong or _check(cell, CELL, CELL_OPTIONAL, f"cells[{n}].")
        cost = None if wrong else cost_of(cell)
        if cost is not None and not (math.isfinite(cost) and cost > 0):
            wrong = f"cells[{n}]: a cost of {cost} is impossible"
    if not wrong and (data.get("unit") or COUNTED_ONLY) not in UNITS:
        wrong = f"the unit {data['unit'][:40]!r} is unknown"
    if wrong:
        raise Unusable(f"{path}: reading a result: {wrong}", "it is not a result of version 1 (bench/README.md); measure again")


class Result:
    """The parts of a result that reports need. `data` is all of it."""

    def __init__(self, data, name="result"):
        self.data, self.name = data, name
        self.cells = {(c["backing"], c["path"], job_of(c)): c for c in data["cells"] if cost_of(c) is not None}
        self.unit = data.get("unit") or COUNTED_ONLY
        self.counted = self.unit == COUNTED_ONLY

    @property
    def unit_name(self):
        return UNITS[self.unit]

    @property
    def rounds(self):
        """How often figures were taken: 3, or 2-3 if not all the same."""
        counts = {len(c["rounds"]) for c in self.cells.values() if isinstance(c.get("rounds"), list)}
        return "?" if not counts else f"{max(counts)}" if len(counts) == 1 else f"{min(counts)}-{max(counts)}"

    @property
    def backings(self):
        """Name and description of each that has cells, as they were measured."""
        known = self.data.get("backings") or {}
        return {b: known.get(b, "") for b, _, _ in self.cells}

    def paths(self, backing):
        return list(dict.fromkeys(p for b, p, _ in self.cells if b == backing))

    def all_paths(self):
        return list(dict.fromkeys(p for _, p, _ in self.cells))

    def jobs(self, backing):
        return list(dict.fromkeys(j for b, _, j in self.cells if b == backing))

    def cell(self, backing, path, job):
        return self.cells.get((backing, path, job))

    def cost(self, backing, path, job):
        cell = self.cell(backing, path, job)
        return cost_of(cell) if cell else None

    def spread(self, backing, path, job):
        cell = self.cell(backing, path, job)
        return (cell.get("spread") or 0.0) if cell else 0.0

    def figure(self, backing, path, job, *names):
        """One of the other figures, as figure(..., "payers", "server_user"); None where it is not there."""
        found = self.cell(backing, path, job)
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def ratio(self, backing, path, other, job):
        """Cost of path over cost of other, and whether that is more than noise; or None."""
        ours, theirs = self.cost(backing, path, job), self.cost(backing, other, job)
        if ours is None or theirs is None:
            return None
        noise = max(self.spread(backing, path, job), self.spread(backing, other, job))
        return ours / theirs, differs(ours / theirs, noise)

    def memory(self, path, backing):
        """Resident bytes of the path's server, or None."""
        for p in self.data.get("paths") or []:
            if p["name"] == path and p.get("backing", backing) == backing:
                value = (p.get("memory") or {}).get("server_rss_bytes") if isinstance(p.get("memory"), dict) else None
                return value if _number(value) else None
        return None


def differs(ratio, noise):
    """Is a ratio farther from one, either way, than the noise?"""
    return max(ratio, 1 / ratio) - 1 > noise


def load(path):
    data = _read(path)
    _validated(data, path)
    return Result(_clean(data), str(path))
