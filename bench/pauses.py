# SPDX-License-Identifier: MIT
"""
For bench/snapshots.py: how long the longest I/O takes while a clone is snapshotted, forked or reset under reads and writes. A reader and
a writer of 4k at random places, one at a time each, note when each of theirs began and ended; what overlaps with the command counts.
"""

import mmap
import multiprocessing
import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import lab

SIZE_MIB = 64
BYTES = 4096
SETTLE_SECONDS = 0.3  # of load before the command, at an instruction a nanosecond
DEADLINE_SECONDS = 60
COMMANDS = {
    "snapshot": lambda device, to: ("snapshot", "-n", device, "--to", to),
    "fork": lambda device, to: ("fork", "-n", device, "--to", to),
    "reset": lambda device, to: ("reset", "-n", device, "--force"),
}


def user(node, writes, begun, stop, results):
    """Reads or writes until told to stop; leaves when each began and ended. An error ends it, and is left instead."""
    places = random.Random(int(writes))
    done = []
    try:
        fd = os.open(node, os.O_RDWR | os.O_DIRECT)
        data = mmap.mmap(-1, BYTES)
        while not stop.is_set():
            offset = places.randrange((SIZE_MIB << 20) // BYTES) * BYTES
            at = time.monotonic_ns()
            moved = os.pwritev(fd, [data], offset) if writes else os.preadv(fd, [data], offset)
            done.append((at, time.monotonic_ns()))
            if moved != BYTES:
                raise OSError(f"{moved} of {BYTES} bytes at {offset}")
            begun.set()
        results.put(done)
    except OSError as e:
        results.put(str(e))


def longest(node, command):
    """Milliseconds of the longest I/O that overlaps with the command, and what that printed."""
    results, stop = multiprocessing.Queue(), multiprocessing.Event()
    begun = [multiprocessing.Event() for _ in range(2)]
    users = [multiprocessing.Process(target=user, args=(node, bool(i), begun[i], stop, results), daemon=True) for i in range(2)]
    for one in users:
        one.start()
    try:
        for one in begun:
            if not one.wait(DEADLINE_SECONDS):
                raise lab.Failed(f"{node}: no I/O for {DEADLINE_SECONDS} s")
        time.sleep(SETTLE_SECONDS)
        at = time.monotonic_ns()
        made = lab.ublk(*command)
        ended = time.monotonic_ns()
    finally:
        stop.set()
    found = [results.get(timeout=DEADLINE_SECONDS) for _ in users]
    for one in users:
        one.join()
    words = " ".join(map(str, command))
    times = []
    for done in found:
        if isinstance(done, str):
            raise lab.Failed(f"{words}: I/O meanwhile has failed: {done}")
        mine = [e - b for b, e in done if e > at and b < ended]
        if not mine:
            raise lab.Failed(f"{words}: one of the users has done no I/O meanwhile")
        times += mine
    return round(max(times) / 1e6, 3), made


def measure(where, times, progress):
    """{command: milliseconds of each time}, of a clone whose layers are files in `where`."""
    where = Path(where)
    base, layer = where / "pauses.img", where / "pauses.layer"
    lab.sh("dd", "if=/dev/urandom", f"of={base}", "bs=1M", f"count={SIZE_MIB}", "conv=fsync", "status=none")
    found = {}
    with ExitStack() as stack:
        for what, words in COMMANDS.items():
            progress(f"the longest I/O during a {what}, {times} times")
            found[what] = []
            lab.ublk("layer", "create", layer, "--base", base, "-F", "raw")
            device = lab.Ublk(None, "-r", "-i", target=["-t", "clone", "-f", layer])
            stack.callback(device.delete)
            if what == "reset":
                # something to go back to
                lab.ublk("snapshot", "-n", device.id, "--to", where / "pauses.sealed")
            for n in range(times):
                took, made = longest(device.node, words(device.id, where / f"pauses.{what}{n}"))
                found[what].append(took)
                if what == "fork":
                    lab.ublk("del", "-n", made["dev_id"])
            stack.close()
            for file in where.glob("pauses.*"):
                if file != base:
                    file.unlink()
    base.unlink()
    return found
