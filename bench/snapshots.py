# SPDX-License-Identifier: MIT
"""
Runs in a virtual machine whose time is the number of instructions executed: what clones cost beside what else makes a disk of an image
and of what was written since: device mapper's snapshots and thin volumes, and qemu-nbd with qcow2. Blocks that are there, blocks that are
written for the first time, how long it takes until a clone of a large image can be used, and how long I/O waits for a snapshot. Leaves
result.json and report.txt in /out. Started by bench/run --clones.
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import clones
import guest
import lab
import mapped
import measure
import paths
import pauses
import report
from limits import ADD_CLONE_MS, PAUSE_MS, check, judge_clones
from measure import Job
from way import Absent, Made, Shape, Way, need_tool

DISK_MIB = 64
FILE_MIB = 32
MEMORY_MIB = 512
IMAGE_BYTES = 1 << 40
PAUSES = 5
FIRST = "first write"
DISKS, FILES, MEMORY = "null_blk", "file on ext4", "file in memory"
BACKINGS = {DISKS: "completes inline, keeps nothing; what is written the first time or copied, on null_blk that keeps it", FILES: lab.FileDisk.WHAT,
            MEMORY: "ext4 on null_blk that keeps what is written, so a copy by the processor is in all figures"}
KEPT = Path("/run/bench/memory")


def hits(engines, rws=("read", "write")):
    return [Job(rw, 4096, qd, count, steady=True, engine=engine) for engine in engines for rw in rws for qd, count in ((1, 800), (32, 2400))]


# qemu-nbd is not asked by libaio: a socket is a socket.
DISK_JOBS, FILE_JOBS, MEMORY_JOBS = hits(("libaio", "io_uring"), ("read",)), hits(("libaio", "io_uring")), hits(("io_uring",))
FIRST_JOBS = [Job("write", bs, qd, count, "sequential", engine="libaio") for bs, qd, count in ((4096, 1, 800), (4096, 32, 1600), (65536, 1, 100))]


def over_disk(disks, stack, shape):
    """A clone of which nothing was written, of a disk."""
    return clones.base(disks[0], stack, shape, "-F", "raw")


def loops(file, stack, size):
    """The file, and one beside it for what is written, as disks: device mapper knows no files."""
    store = Path(f"{file}.store")
    lab.sh("fallocate", "-l", f"{size}M", store)
    lab.sh("dd", "if=/dev/zero", f"of={store}", "bs=1M", f"count={size}", "oflag=direct", "conv=notrunc,fsync", "status=none")
    stack.callback(store.unlink)
    nodes = []
    for name in (file, store):
        nodes.append(lab.kernel_loop(name))
        stack.callback(lab.sh, "losetup", "-d", nodes[-1])
    return nodes


def snapshot_of_files(file, stack, shape):
    return mapped.snapshot(loops(file, stack, FILE_MIB), stack, shape)


def empty_snapshot(disks, stack, shape):
    return mapped.empty_snapshot(disks, stack)


def empty_snapshot_of_files(file, stack, shape):
    return mapped.empty_snapshot(loops(file, stack, FILE_MIB), stack)


def new_clone(file, stack, shape):
    """Nothing was written. Its layer is beside the file."""
    layer = Path(f"{file}.layer")
    lab.ublk("layer", "create", layer, "--base", file, "-F", "raw")
    stack.callback(layer.unlink)
    return clones.served(layer, stack)


def old_clone(file, stack, shape):
    made = new_clone(file, stack, shape)
    mapped.write_all(made.node)
    return made


def qcow2(file, stack, shape):
    """Nothing was written."""
    need_tool("qemu-img", "qemu-utils")
    overlay = Path(f"{file}.qcow2")
    lab.sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", file, "-F", "raw", overlay)
    stack.callback(overlay.unlink)
    return paths.nbd(overlay, stack, shape, "qcow2")


def old_qcow2(file, stack, shape):
    made = qcow2(file, stack, shape)
    mapped.write_all(made.node)
    return made


HITS = {
    DISKS: (DISK_JOBS, [
        Way("raw", "the disk itself", lambda disks, stack, shape: Made(disks[0]), disks=(False,)),
        Way("clone, base", "clone.bpf.o over a disk, nothing written", over_disk, disks=(False,)),
        Way("dm-snapshot, origin", "device mapper, nothing copied", empty_snapshot, disks=(False, True)),
        *(w for w in mapped.WAYS if w.name in ("dm-snapshot", "dm-thin")),
    ]),
    FILES: (FILE_JOBS, [
        *(w for w in clones.WAYS if w.name != "program, layer"),
        Way("dm-snapshot", "device mapper over two loop devices, all of it copied before", snapshot_of_files, kept_mib=0),
    ]),
    MEMORY: (MEMORY_JOBS, [
        Way("clone, delta", "clone.bpf.o, all of it written before", old_clone),
        Way("qemu-nbd, qcow2", "qemu-nbd --cache=none --aio=native, all of it written before", old_qcow2),
    ]),
}
# Made anew for each round.
FIRSTS = {
    DISKS: [Way("dm-snapshot", "device mapper, nothing copied", empty_snapshot, disks=(True, True))],
    MEMORY: [
        Way("clone", "clone.bpf.o, nothing written", new_clone),
        Way("dm-snapshot", "device mapper over two loop devices, nothing copied", empty_snapshot_of_files),
        Way("qemu-nbd, qcow2", "clusters of 64 KiB, nothing written", qcow2),
    ],
}


def progress(what):
    print(f"    {what}", flush=True)


class Places:
    """What the ways are over."""

    def __init__(self, stack):
        self.stack = stack
        self.disks = self.files = 0
        self.file_disk = lab.FileDisk(512)
        node = lab.null_blk("memory", MEMORY_MIB, 1)
        lab.sh("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0", node)
        KEPT.mkdir(parents=True)
        lab.sh("mount", "-t", "ext4", node, KEPT)

    def disk(self, keeps):
        name = f"clones{self.disks}"
        self.disks += 1
        node = lab.null_blk(name, DISK_MIB, int(keeps))
        self.stack.callback(lab.null_blk_gone, name)
        return node

    def of(self, backing, way):
        if backing == DISKS:
            return [self.disk(keeps) for keeps in way.disks]
        if backing == FILES:
            return self.file_disk.file(way.slug, FILE_MIB, way.kept_mib)
        self.files += 1
        file = KEPT / f"{way.slug}{self.files}"
        lab.sh("dd", "if=/dev/urandom", f"of={file}", "bs=1M", f"count={FILE_MIB}", "conv=fsync", "status=none")
        lab.drop_caches()
        return str(file)


def hit_cells(places, stack, rounds, absent):
    cells = []
    for backing, (jobs, ways) in HITS.items():
        made = []
        for way in ways:
            progress(f"makes {way.name}, {backing}")
            try:
                found = way.make(places.of(backing, way), stack, Shape())
            except Absent as e:
                absent.append({"path": way.name, "why": str(e)})
                continue
            made.append(measure.Path(backing, way.name, found.node, found.device, reads_only=found.reads_only))
        cells += measure.measure(made, jobs, rounds, progress)
    return [c.to_json() for c in cells]


def first_write(cell, way, place):
    """One round: each block is written once, on a device that was just made."""
    with ExitStack() as stack:
        made = way.make(place, stack, Shape())
        cell.path.node, cell.path.device = made.node, made.device
        measure.one_round(cell)


def first_cells(places, rounds, absent):
    cells = []
    for backing, ways in FIRSTS.items():
        for way in ways:
            progress(f"first writes: {way.name}, {backing}")
            place = places.of(backing, way)
            mine = [measure.Cell(measure.Path(backing, way.name, ""), job) for job in FIRST_JOBS]
            try:
                for _ in range(rounds):
                    for cell in mine:
                        first_write(cell, way, place)
            except Absent as e:
                absent.append({"path": f"{way.name}, {FIRST}", "why": str(e)})
                continue
            cells += mine
    return [{**c.to_json(), "rw": FIRST} for c in cells]


class Clone:
    """Milliseconds at an instruction a nanosecond, from the command's start to the end of the first read; nothing else is done meanwhile."""

    def __init__(self, layer):
        began = time.monotonic_ns()
        info = lab.ublk("add", "-t", "clone", "-f", layer, "-r")
        paths.read_first(info["block"])
        self.took = round((time.monotonic_ns() - began) / 1e6, 3)
        self.id, self.layer = info["dev_id"], layer

    def end(self):
        lab.ublk("del", "-n", self.id)
        self.layer.unlink()


def add_times(times):
    """Of clones of a large sparse image: of the first on the machine, which loads the program, and of those after it."""
    lab.have_module("ublk_drv")
    image = KEPT / "image"
    lab.sh("truncate", "-s", IMAGE_BYTES, image)

    def clone(name):
        lab.ublk("layer", "create", KEPT / name, "--base", image, "-F", "raw")
        return Clone(KEPT / name)

    first, others = clone("first.layer"), []
    for _ in range(times):
        other = clone("other.layer")
        others.append(other.took)
        other.end()
    first.end()
    image.unlink()
    return first.took, others


def arguments():
    p = argparse.ArgumentParser(prog="snapshots")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--adds", type=int, default=100)
    return p.parse_args()


def run(args):
    absent = []
    with ExitStack() as stack:
        places = Places(stack)
        progress(f"adds {args.adds} clones of 1 TiB, one after the other")
        first_add, adds = add_times(args.adds)
        cells = hit_cells(places, stack, args.rounds, absent)
        cells += first_cells(places, args.rounds, absent)
        waits = pauses.measure(KEPT, PAUSES, progress)
        stack.pop_all()  # the machine ends
    checks = judge_clones(cells)
    checks.append(check("add of a clone of 1 TiB until its first read", statistics.median(adds), ADD_CLONE_MS, f"median of {len(adds)}, with another clone there", unit="ms"))
    checks += [check(f"longest I/O during a {what}", max(times), PAUSE_MS, f"of {len(times)} times", unit="ms") for what, times in waits.items()]
    return {"version": guest.RESULT_VERSION, "set": "clones", **guest.versions(), "settings": {"rounds": args.rounds, "span_bytes": measure.SPAN_BYTES},
            "backings": BACKINGS, "absent": absent, "generator_part": [], "cells": cells, "first_add_ms": first_add, "add_ms": adds, "pause_ms": waits,
            "checks": checks}


def main():
    args = arguments()
    return guest.leave(lambda: run(args), report.counted)


if __name__ == "__main__":
    sys.exit(main())
