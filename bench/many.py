# SPDX-License-Identifier: MIT
"""
Runs in a virtual machine of two processors: a thousand clones of one image, one server each and one server for all: how long it takes to
add them, to do an I/O on each, to snapshot each, to delete them, and how much memory each takes. Times are the emulator's, so only their
growth with the number says something. Leaves result.json and report.txt in /out. Started by bench/run --many N.
"""

import argparse
import sys
import time
from pathlib import Path

import guest
import lab
import paths
import report
from limits import CLONE_BYTES, check

IMAGE_MIB = 16
WHERE = Path("/run/bench/many")


def progress(what):
    print(f"    {what}", flush=True)


class Steps:
    """Seconds that each step took, and the memory that the machine has less after it."""

    def __init__(self, kind, clones):
        self.kind, self.clones, self.found = kind, clones, []
        self.before = paths.available_bytes()

    def take(self, name, act):
        progress(f"{self.kind}, {self.clones} clones: {name}")
        began = time.monotonic()
        act()
        seconds = time.monotonic() - began
        self.found.append({"step": name, "clones": self.clones, "servers": self.kind, "seconds": round(seconds, 2),
                           "bytes_each": max(self.before - paths.available_bytes(), 0) // self.clones})


def layer(n):
    return WHERE / f"vm{n}.delta"


def create(clones):
    for n in range(clones):
        lab.ublk("layer", "create", layer(n), "--base", WHERE / "golden.img", "-F", "raw")


def remove(clones):
    for n in range(clones):
        layer(n).unlink()


def write_and_read(clones):
    for n in range(clones):
        node, data = lab.wait_for(f"/dev/ublkb{n}"), n.to_bytes(4, "little") * 1024
        paths.write_first(node, data)
        if paths.read_first(node) != data:
            raise lab.Failed(f"{node}: what was written is not read")


def snapshot(clones):
    for n in range(clones):
        lab.ublk("snapshot", "-n", n, "--to", WHERE / f"vm{n}.monday")


def add_each(clones):
    for n in range(clones):
        lab.ublk("add", "-t", "clone", "-f", layer(n), "-n", n, "-r", "-q", 1, "-d", 32, "--max-io", "64K")


def add_together(clones):
    files = [word for n in range(clones) for word in ("-f", layer(n))]
    lab.ublk("add", "-t", "clone", *files, "-n", 0, "-r", "-q", 1, "-d", 32, "--max-io", "64K")


def measure(kind, clones, add, snapshots):
    create(clones)
    steps = Steps(kind, clones)
    steps.take("add", lambda: add(clones))
    served = [d for d in lab.ublk("list")["devices"] if d["bpf"] and d["bpf"]["prog_id"]]
    if len(served) != clones:
        raise lab.Failed(f"{len(served)} of {clones} clones are served by their program")
    steps.take("first write and a read of each", lambda: write_and_read(clones))
    steps.take("list", lambda: lab.ublk("list"))
    if snapshots:
        steps.take("snapshot of each", lambda: snapshot(clones))
        steps.take("a write and a read of each after it", lambda: write_and_read(clones))
    steps.take("del of all", lambda: lab.ublk("del", "-a"))
    remove(clones)
    for left in WHERE.glob("*.monday"):
        left.unlink()
    return steps.found


def rows(steps):
    head = ["servers", "clones", "step", "seconds", "ms each", "KiB of memory each"]
    return [head] + [[s["servers"], str(s["clones"]), s["step"], f"{s['seconds']:g}", f"{s['seconds'] * 1000 / s['clones']:.1f}",
                      "" if s["step"].startswith("del") else f"{s['bytes_each'] >> 10}"] for s in steps]


def run(clones):
    lab.have_module("ublk_drv")
    WHERE.mkdir(parents=True)
    node = lab.null_blk("memory", 2 * clones + 256, 1)
    lab.sh("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", node)
    lab.sh("mount", "-t", "ext4", node, WHERE)
    lab.sh("dd", "if=/dev/urandom", f"of={WHERE}/golden.img", "bs=1M", f"count={IMAGE_MIB}", "status=none")
    lab.sh("sync")
    steps = measure("one for all", clones, add_together, False)
    # Fewer: a process each is most of an hour of the emulator for a thousand.
    for part in (64, 16):
        steps += measure("one each", max(clones // part, 1), add_each, True)
    shared = next(s for s in steps if s["servers"] == "one for all" and s["step"].startswith("first write"))
    return {"version": guest.RESULT_VERSION, "set": "many", **guest.versions(), "settings": {"rounds": 1}, "absent": [], "generator_part": [],
            "backings": {"file in memory": f"ext4 on null_blk, an image of {IMAGE_MIB} MiB"}, "cells": [], "steps": steps,
            "checks": [check("memory of a clone, one server for many", shared["bytes_each"], CLONE_BYTES, f"{clones} clones", unit="bytes")]}


def as_text(result):
    return "\n\n".join((report.align(rows(result["steps"])), report.align(report.check_rows(result), right_from=2)))


def main():
    p = argparse.ArgumentParser(prog="many")
    p.add_argument("--clones", type=int, required=True)
    args = p.parse_args()
    return guest.leave(lambda: run(args.clones), as_text)


if __name__ == "__main__":
    sys.exit(main())
