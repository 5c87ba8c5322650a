# SPDX-License-Identifier: MIT
"""Writers that remember what was acknowledged, so that a lost, late or torn write is seen whoever died meanwhile."""

import errno
import os
import random
import threading
import time
from array import array

from blockio import Opened, aligned
from cli import seconds, wait_for

SECTOR = 512
RWF_DSYNC = 2
# a slot is written whole, by one writer
SLOT_SIZES = (4096, 4096, 16384, 512, 65536)
# what ends with the device
GONE = (errno.ENXIO, errno.ENODEV)


def content(slot, number, length):
    """Each sector says which it is, of which slot, and by which write."""
    words = SECTOR // 8
    data = array("Q")
    for sector in range(length // SECTOR):
        data.extend([number << 32 | slot << 16 | sector] * words)
    return data.tobytes()


class Slot:
    def __init__(self, index, offset, length):
        self.index, self.offset, self.length = index, offset, length
        self.acked = 0  # of the last write that succeeded
        self.unsure = set()  # writes since then that failed: done in part, or not

    def check(self, data, where):
        words = array("Q", data)
        per_sector = SECTOR // 8
        for sector in range(self.length // SECTOR):
            first = words[sector * per_sector]
            number = first >> 32
            at = f"{where}: byte {self.offset + sector * SECTOR}"
            assert first & 0xFFFFFFFF == self.index << 16 | sector, f"{at}: {first:#x} does not belong there"
            assert words[sector * per_sector : (sector + 1) * per_sector] == array("Q", [first] * per_sector), \
                f"{at}: a sector torn in itself"
            assert number == self.acked or number in self.unsure, \
                f"{at}: holds write {number}, but {self.acked} was acknowledged, {sorted(self.unsure)} may be there too"


class Ledger:
    """A range of slots that is written at random, and what has to be in it."""

    def __init__(self, size, writers=4, seed=1):
        self.random = random.Random(seed)
        self.slots, offset = [], 0
        while offset < size:
            length = min(SLOT_SIZES[len(self.slots) % len(SLOT_SIZES)], size - offset)
            self.slots.append(Slot(len(self.slots), offset, length))
            offset += length
        self.writers = writers
        self.acked = 0  # in all
        self._number = 0
        self._lock = threading.Lock()

    def number(self):
        with self._lock:
            self._number += 1
            return self._number

    def ack(self):
        with self._lock:
            self.acked += 1

    def fill(self, path):
        with Opened(path) as f:
            for slot in self.slots:
                f.write(slot.offset, content(slot.index, 0, slot.length))

    def check(self, path):
        with Opened(path, flags=os.O_RDONLY) as f:
            for slot in self.slots:
                data = f.read(slot.offset, slot.length)
                assert len(data) == slot.length, f"{path}: short read at {slot.offset}"
                slot.check(data, path)


class Writing:
    """The ledger's writers at work on a device; ends with all of them, or says that they hang."""

    def __init__(self, ledger, path):
        self.ledger, self.path = ledger, path
        self.errors = []  # (when the call began, errno)
        self.broken = None
        self._stop = threading.Event()
        self._acks = [0] * ledger.writers
        self._threads = [
            threading.Thread(target=self._run, args=(i, random.Random(ledger.random.random())), daemon=True)
            for i in range(ledger.writers)
        ]

    def _run(self, me, rng):
        mine = self.ledger.slots[me :: self.ledger.writers]
        try:
            with Opened(self.path, flags=os.O_WRONLY) as f:
                while not self._stop.is_set() and self._write(f, me, rng.choice(mine), rng):
                    pass
        except BaseException as e:  # handed to whoever checks
            self.broken = e

    def _write(self, f, me, slot, rng):
        number = self.ledger.number()
        slot.unsure.add(number)
        data = aligned(content(slot.index, number, slot.length))
        began = time.monotonic()
        try:
            done = os.pwritev(f.fd, [data], slot.offset, RWF_DSYNC if rng.random() < 0.1 else 0)
        except OSError as e:
            self.errors.append((began, e.errno))
            # not to count failures by the million
            self._stop.wait(0.01)
            return e.errno not in GONE
        assert done == slot.length, f"short write: {done} of {slot.length} bytes"
        slot.acked, slot.unsure = number, set()
        self._acks[me] += 1
        self.ledger.ack()
        return True

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def wait_for_writes(self, count):
        before = self.ledger.acked
        wait_for(f"{count} writes", lambda: self.broken or self.ledger.acked >= before + count, 60)
        self.check()

    def wait_for_all(self):
        """Until each writer has had an acknowledgement from now on."""
        before = list(self._acks)
        wait_for("each writer to go on", lambda: self.broken or all(a > b for a, b in zip(self._acks, before)), 60)
        self.check()

    def errors_since(self, moment):
        return [code for began, code in self.errors if began >= moment]

    def check(self):
        if self.broken:
            raise self.broken

    def __exit__(self, exc_type, *_):
        self._stop.set()
        deadline = time.monotonic() + seconds(60)
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        if exc_type is None:
            assert not any(t.is_alive() for t in self._threads), f"writes to {self.path} hang"
            self.check()
