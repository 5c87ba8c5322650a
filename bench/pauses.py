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
COMMANDS = {
    "snapshot": lambda device, to: ("snapshot", "-n", device, "--to", to),
    "fork": lambda device, to: ("fork", "-n", device, "--to", to),
    "reset": lambda device, to: ("reset", "-n", device, "--force"),
}


def user(node, writes, stop, results):
    """Reads or writes until told to stop; leaves when each began and ended. An error ends it, and is left instead."""
    places = random.Random(int(writes))
    done = []
    fd = os.open(node, os.O_RDWR | os.O_DIRECT)
    data = mmap.mmap(-1, BYTES)
    try:
        while not stop.is_set():
            offset = places.randrange((SIZE_MIB << 20) // BYTES) * BYTES
            began = time.monotonic_ns()
            moved = os.pwritev(fd, [data], offset) if writes else os.preadv(fd, [data], offset)
            done.append((began, time.monotonic_ns()))
            if moved != BYTES:
                raise OSError(f"{moved} of {BYTES} bytes at {offset}")
        results.put(done)
    except OSError as e:
        results.put(str(e))
    finally:
        os.close(fd)


def longest(node, command):
    """Milliseconds of the longest I/O that overlaps with the command."""
    results, stop = multiprocessing.Queue(), multiprocessing.Event()
    users = [multiprocessing.Process(target=user, args=(node, writes, stop, results)) for writes in (False, True)]
    for one in users:
        one.start()
    time.sleep(SETTLE_SECONDS)
    began = time.monotonic_ns()
    made = lab.ublk(*command)
    ended = time.monotonic_ns()
    stop.set()
    found = [results.get() for _ in users]
    for one in users:
        one.join()
    for done in found:
        if isinstance(done, str):
            raise lab.Failed(f"{' '.join(map(str, command))}: I/O meanwhile has failed: {done}")
    times = [e - b for done in found for b, e in done if e > began and b < ended]
    if not times:
        raise lab.Failed(f"{' '.join(map(str, command))}: no I/O meanwhile")
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
            # the top is taken away by a reset, which needs something to go back to
            device = lab.Ublk(None, "-r", "-i", target=["-t", "clone", "-f", layer])
            stack.callback(device.delete)
            if what == "reset":
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
