# SPDX-License-Identifier: MIT
"""
Measures chunks of ublk-bpf bench, in the counting machine or on a host: makes the paths, checks them, counts, says who pays, and takes
away all that it has made, whatever happens. Writes the result even if it is interrupted. Started by bench/main.py.

Exit status: 0, 2 there is no result, 130 it was interrupted and the result is what there was.
"""

import argparse
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import host
import lab
import measure
import paths
import payers
import sets

SETTLE_SECONDS = 20
BACKING_MIB = 64
WHAT = {
    "null_blk": "completes inline, keeps nothing",
    "nvme": "a disk of the emulator's",
    "ext4": lab.FileDisk.WHAT,
    "null": "the server does no I/O",
    "disk": "a disk that was given",
    "device": "what the device is over, read only",
}
NAME = {"null": "null target", "ext4": "file on ext4"}


def progress(what):
    print(f"    {what}", flush=True)


class Backing:
    """What the paths of a chunk are over; node(n) is the backing of the n-th device."""

    def __init__(self, kind, stack, args):
        self.disk_node = args.backing
        self.kind = "disk" if args.backing and kind != "null" else kind
        if kind == "device":
            files = lab.ublk("list", "-n", args.dev)["devices"][0]["files"]
            if len(files) != 1:
                raise lab.Failed(f"device {args.dev}: is over {len(files)} files, one is needed to compare with other ways to read it")
            self.disk_node = files[0]
        kind = self.kind
        self.stack = stack
        self.name = NAME.get(kind, kind)
        self.made = {}
        # A disk of the emulator's: how long it takes says nothing, so neither does the time that an I/O takes.
        self.waits = self.kind == "nvme"
        self.disk = lab.FileDisk(768) if kind == "ext4" else None

    def null_blk(self, name, memory_backed=0):
        if name not in self.made:
            self.made[name] = lab.null_blk(name, BACKING_MIB, memory_backed)
            self.stack.callback(lab.null_blk_gone, name)
        return self.made[name]

    def node(self, way):
        """A function of n."""
        if self.kind == "null":
            return None
        if way.disks and self.kind != "null_blk":
            raise paths.Absent("would keep the others from the disk")
        if self.kind in ("disk", "device"):
            return lambda n: self.disk_node
        if self.kind == "nvme":
            return lambda n: nvme()
        if self.kind == "ext4":
            if way.name == "raw":
                raise paths.Absent("a file has no block device of its own")
            return lambda n: self.disk.file(f"{way.slug}{n}", 32, way.kept_mib)
        if way.disks:
            return lambda n: [self.null_blk(f"bench-{way.slug}{n}-{i}", int(kept)) for i, kept in enumerate(way.disks)]
        return lambda n: self.null_blk(f"bench-shared{n}")

    def check(self, way):
        """A backing that keeps what is written, of as many disks as the way needs."""
        disks = [self.null_blk(f"bench-check{i}", 1) for i in range(len(way.disks) or 1)]
        return disks if way.disks else disks[0]


def nvme():
    disks = sorted(Path("/dev/disk").glob("vm*"))
    if not disks:
        raise paths.Absent("this machine has no disk to spare")
    return os.path.realpath(disks[0])


def latency(cells, jobs):
    """Percentiles, of fio."""
    for cell in cells:
        if cell.job in jobs:
            cell.more["latency_ns"] = host.percentiles(cell.path.node, cell.job)


class Notes:
    """
    The result so far, a line each time, for who ends the machine before it has ended: whole(cells) is the result with those of these cells that
    have been measured.
    """

    EACH = 20  # cells

    def __init__(self, path, whole):
        self.path, self.whole = path, whole
        self.taken = 0

    def write(self, cells):
        if self.path:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(self.whole(cells)) + "\n")

    def after(self, take, cells):
        """Takes a round of a cell, as take does, and writes now and then."""
        def one(cell):
            take(cell)
            self.taken += 1
            if not self.taken % self.EACH or cell is cells[-1]:
                self.write(cells)
        return one


def unless_absent(found, what, look, *args):
    """What this kernel cannot tell is listed as absent."""
    try:
        look(*args)
    except payers.Unavailable as e:
        progress(f"{what}: {e}")
        if all(a["path"] != what for a in found["absent"]):
            found["absent"].append({"path": what, "why": str(e)})


def who_pays(cells):
    with payers.Payers() as counter:
        for cell in cells:
            counter.reset()
            ios = measure.load_path(cell.path, cell.job)["ios"]
            cell.more.update(payers.scaled(payers.shares(counter.read(), ios), cell.insns))


def what_is_copied(cells):
    with payers.Payers(copies=True) as counter:
        for cell in cells:
            counter.reset()
            # It is the same for each, so few are enough.
            few = max(cell.job.count // 4, 2 * cell.job.qd, 24)
            ios = measure.load_path(cell.path, dataclasses.replace(cell.job, count=few))["ios"]
            cell.more["copied_bytes_per_io"] = round(counter.read()["copied_bytes"] / ios, 1)


def finish(cell, unit):
    """What the result says of a cell beside what bench/run's does."""
    cost = cell.insns
    per_s = 1e9 / cell.wall if cell.wall and not cell.path.waits else None
    more = {
        "cost_per_io": round(cost, 1),
        "pattern": cell.job.pattern,
        "queues": cell.path.queues,
        "devices": cell.path.devices,
        "memory": cell.path.memory,
        "iops": round(per_s, 1) if per_s else None,
        "bytes_per_s": round(per_s * cell.job.bs) if per_s else None,
    }
    looked_at = ("payers", "syscalls_per_io", "context_switches_per_io", "wakeups_per_io", "copied_bytes_per_io", "latency_ns", "events_per_io",
                 "traced_cost_per_io")
    found = {**cell.to_json(), **more, **{name: cell.more.get(name) for name in looked_at}}
    if unit != "instructions":
        found["insns_per_io"] = (found["events_per_io"] or {}).get("instructions")
    return found


def ways_of(chunk, args):
    if chunk.backing == "device":
        return paths.device_paths(args.dev)
    if chunk.backing == "null":
        return paths.NULL_PATHS
    return [w for w in paths.ALL if w.name in chunk.ways] if chunk.ways else paths.PATHS


def make_paths(bench, chunk, backing, args):
    checked = chunk.devices == 1 and chunk.queues == 1 and chunk.backing == "null_blk"
    for way in ways_of(chunk, args):
        if (chunk.main_only and not way.main) or (args.path and way.name not in args.path):
            continue
        try:
            node = backing.node(way)
        except paths.Absent as e:
            bench.missing(way.name, str(e))
            continue
        progress(f"makes {way.name}" + (f", {chunk.devices} devices" if chunk.devices > 1 else ""))
        if bench.add(way, backing.name, node, chunk.devices, chunk.queues, backing.check(way) if checked else None):
            bench.paths[-1].waits = backing.waits


def measure_chunk(chunk, args, found, notes):
    """Adds to the result what it finds; whatever was made is gone afterwards."""
    bench = paths.Bench(found["paths"], found["absent"])
    cells = []
    try:
        backing = Backing(chunk.backing, bench.stack, args)
        make_paths(bench, chunk, backing, args)
        main = {w.name for w in ways_of(chunk, args) if w.main}
        found["backings"][backing.name] = WHAT[backing.kind]
        if args.unit == "instructions":
            progress(f"lets the machine settle, {SETTLE_SECONDS} s of its time")
            time.sleep(SETTLE_SECONDS)
        cells = [measure.Cell(path, job) for job in (*chunk.jobs, *chunk.main_jobs) for path in bench.paths
                 if (job in chunk.jobs or path.name in main) and (job.rw == "read" or not path.reads_only) and (not args.job or sets.name(job) in args.job)]
        with host.Counter(args.unit, backing.waits, args.cpu) as counter:
            measure.rounds(bench.paths, cells, args.rounds or chunk.rounds, progress, notes.after(counter.one_round, cells),
                           ("read",) if chunk.backing == "device" else ("read", "write"))
        if args.unit == "instructions" and not backing.waits:
            progress("looks who pays")
            unless_absent(found, "who pays", who_pays, cells)
        elif args.unit == "cpu_ns":
            host.Counter.events([c for c in cells if c.rounds])
        progress("looks what is copied")
        unless_absent(found, "bytes copied", what_is_copied, [c for c in cells if c.path.devices == 1 and c.job not in sets.QUICK_MAIN])
        if chunk.latency and not backing.waits:
            progress("asks fio for percentiles")
            latency(cells, chunk.latency)
    finally:
        found["cells"] += [finish(c, args.unit) for c in cells if c.rounds]
        progress("takes away what it has made")
        bench.close()


def versions():
    lab.have_module("ublk_drv")
    probe = lab.probe()
    return {
        "kernel": platform.release(),
        "face": probe["face"],
        "ublk_bpf": lab.sh(lab.UBLK_BPF, "--version"),
        "program": {"name": "loop", "sha256": host.sha256(lab.object_of("loop"))},
        "generator": {"name": "bench/load.c", "sha256": os.environ.get("BENCH_LOAD_SHA256", "")},
        "fio": lab.sh("fio", "--version"),
        "host": {name: os.environ.get(f"BENCH_{name.upper()}", "") for name in ("cpu", "qemu", "commit", "when")},
    }


def arguments():
    p = argparse.ArgumentParser(prog="bench")
    p.add_argument("--set", required=True, choices=("quick", "full", "device"))
    p.add_argument("--chunk", action="append", default=[])
    p.add_argument("--path", action="append", default=[], help="only these, by name")
    p.add_argument("--job", action="append", default=[], help="only these, as read-4k-qd1")
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--unit", default="instructions", choices=("instructions", "cpu_ns"))
    p.add_argument("--backing", help="a disk to be used instead of null_blk; what is on it is overwritten")
    p.add_argument("--dev", type=int, help="with --set device: N of /dev/ublkbN")
    p.add_argument("--cpu", type=int, help="the processor that submits")
    p.add_argument("--notes", help="the result so far, a line each time")
    p.add_argument("--out", default="/out/result.json")
    return p.parse_args()


def result_of(args, head, found, interrupted):
    return {
        "version": 1,
        "set": args.set,
        "unit": args.unit,
        "interrupted": interrupted,
        **head,
        "settings": {
            "rounds": args.rounds or max(c.rounds for c in sets.chunks_of(args.set)),
            "settle_s": SETTLE_SECONDS if args.unit == "instructions" else 0,
            "span_bytes": measure.SPAN_BYTES,
            "null_blk": {**lab.NULL_BLK, "size_mib": BACKING_MIB},
            "ublk": {"nr_hw_queues": 1, "queue_depth": 128},
            "icount": os.environ.get("BENCH_ICOUNT", ""),
            **host.settings(args.cpu),
        },
        **found,
        "generator_part": [],
        "checks": [],
    }


def run(args, head, found):
    def whole(cells):
        measured = [finish(c, args.unit) for c in cells if c.rounds]
        return result_of(args, head, {**found, "cells": found["cells"] + measured}, True)

    notes = Notes(args.notes, whole)
    for chunk in sets.chunks_of(args.set):
        if not args.chunk or chunk.name in args.chunk:
            progress(f"--- {chunk.name}")
            measure_chunk(chunk, args, found, notes)
            notes.write([])


def main():
    args = arguments()
    if args.cpu is not None:
        measure.stay_on(args.cpu)
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, lab.Interruption.note)
    found = {"backings": {}, "paths": [], "absent": [], "cells": []}
    status = 0
    try:
        head = versions()
        run(args, head, found)
    except lab.Failed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 2
    except lab.Interrupted:
        status = 130
        if not found["cells"]:
            print("bench: interrupted before anything was measured", file=sys.stderr)
            return status
    result = result_of(args, head, found, status != 0)
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as e:
        print(f"bench: {e}", file=sys.stderr)
        sys.exit(2)
