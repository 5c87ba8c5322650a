# SPDX-License-Identifier: MIT
"""
Runs in a virtual machine of two processors: do two submitters get done what two can, on one hardware queue and on two? Not counted, as
what waits for a lock is not work: it is measured in time, the best of some rounds, and how often a lock was waited for. Leaves
result.json and report.txt in /out. Started by bench/run --two.
"""

import argparse
import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import guest
import lab
import measure
import paths
import report
from way import Absent, Shape

JOB = measure.Job("read", 4096, 32, 40000)
CONTENTION = Path("/sys/kernel/tracing/events/lock/contention_begin")
MIB = 256


class Contention:
    """How often the generator waited for a lock, or None where the kernel has no tracepoint for it."""

    TRIGGER = 'hist:keys=flags if comm == "load"'

    def __enter__(self):
        self.there = (CONTENTION / "trigger").exists()
        if self.there:
            (CONTENTION / "trigger").write_text(self.TRIGGER)
        return self

    def count(self):
        if not self.there:
            return None
        # the head of the file names hitcount, too
        return sum(map(int, re.findall(r"hitcount: +(\d+)", (CONTENTION / "hist").read_text())))

    def __exit__(self, *what):
        if self.there:
            (CONTENTION / "trigger").write_text("!" + self.TRIGGER)


def submit(node, submitters):
    """I/Os a second, of all of them together: each on a processor of its own."""
    argv = [["taskset", "-c", str(n), *measure.load_argv([node], JOB)] for n in range(submitters)]
    running = [subprocess.Popen(a, stdout=subprocess.PIPE, text=True) for a in argv]
    said = [json.loads(r.communicate()[0]) for r in running]
    return sum(s["ios"] * 1e9 / s["ns"] for s in said)


def make_paths(queues, stack):
    """Raw, dm-linear and a program, over null_blks of so many hardware queues."""
    found = []
    ways = {w.name: w for w in paths.PATHS}
    for name in ("raw", "dm-linear", "program"):
        way = ways[name]
        disk = lab.null_blk(f"two{queues}{name}", MIB, 0, submit_queues=queues)
        try:
            made = way.make([disk] if way.disks else disk, stack, Shape(queues=queues))
        except Absent as e:
            print(f"    {name} is absent: {e}", flush=True)
            continue
        found.append((name, queues, made.node))
    return found


def measure_all(args):
    with ExitStack() as stack:
        made = [p for queues in (1, 2) for p in make_paths(queues, stack)]
        best = {(*p, n): 0.0 for p in made for n in (1, 2)}
        waited = {}
        for r in range(args.rounds):
            print(f"    round {r + 1} of {args.rounds}", flush=True)
            for name, queues, node, n in best:
                with Contention() as contention:
                    best[name, queues, node, n] = max(best[name, queues, node, n], submit(node, n))
                    seen = contention.count()
                if n == 2 and seen is not None:
                    waited.setdefault((name, queues), []).append(seen * 1000 / (2 * JOB.all_ios))
        stack.pop_all()
    scaling = []
    for name, queues, node in made:
        one, two = (best[name, queues, node, n] for n in (1, 2))
        found = waited.get((name, queues))
        scaling.append({"path": name, "queues": queues, "iops_one": round(one), "iops_two": round(two), "scales": round(two / one, 3),
                        "waits_per_1000_ios": round(sum(found) / len(found), 2) if found else None})
    return scaling


def main():
    p = argparse.ArgumentParser(prog="two")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    lab.have_module("ublk_drv")
    return guest.leave(
        lambda: {"version": guest.RESULT_VERSION, "set": "two", **guest.versions(), "settings": {"rounds": args.rounds},
                 "backings": {"null_blk": "completes inline, keeps nothing"}, "cells": [], "generator_part": [], "checks": [],
                 "scaling": measure_all(args)},
        lambda result: report.align(report.scaling_rows(result)))


if __name__ == "__main__":
    sys.exit(main())
