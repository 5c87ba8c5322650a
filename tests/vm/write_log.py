# SPDX-License-Identifier: MIT
"""
What has reached a disk, in order: a log of device mapper's log-writes target, and its replay onto another disk up to any
point at which the power can have failed. Format: drivers/md/dm-log-writes.c of the kernel.
"""

import os
import struct
from dataclasses import dataclass

from blockio import Opened
from lab import sh

MAGIC = 0x6A736677736872
SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


class LoggedDisk:
    """A device mapper disk over one that is logged; each of the names given to mark() is in the log."""

    def __init__(self, lab, disk, log, name="ublkl"):
        for module in ("dm-mod", "dm-log-writes"):
            sh("modprobe", "-q", module, check=False)
        self.name, self.log, self.path = name, log.path, f"/dev/mapper/{name}"
        sectors = sh("blockdev", "--getsz", disk.path).stdout.strip()
        sh("dmsetup", "create", name, "--table", f"0 {sectors} log-writes {disk.path} {log.path}")
        self.gone = False
        lab.cleanup(self.remove)
        sh("dmsetup", "mknodes", name)

    def mark(self, name):
        sh("dmsetup", "message", self.name, "0", "mark", name)

    def remove(self):
        if not self.gone:
            sh("dmsetup", "remove", "--retry", self.name)
        self.gone = True


@dataclass
class Entry:
    sector: int
    count: int
    flags: int
    at: int  # of its data, in the log
    name: str


def entries_of(log):
    with open(log, "rb") as f:
        magic, version, count, size = struct.unpack("<QQQI", f.read(28))
        assert (magic, version) == (MAGIC, 1), "not a log of writes"
        at, entries = size, []
        for _ in range(count):
            f.seek(at)
            sector, nr, flags, length = struct.unpack("<QQQQ", f.read(32))
            name = f.read(length).rstrip(b"\0").decode() if flags & MARK else ""
            at += size
            entries.append(Entry(sector * size, nr * size, flags, at, name))
            if not flags & (DISCARD | MARK):
                at += nr * size
        return entries


class Replay:
    """Onto a disk that is zeroes; only forwards."""

    def __init__(self, log, disk):
        self.entries = entries_of(log)
        self.log, self.disk, self.next = log, disk, 0

    def to(self, index):
        """With the entries before this one done."""
        with open(self.log, "rb") as log, open(self.disk, "r+b", buffering=0) as disk:
            for entry in self.entries[self.next:index]:
                if entry.flags & MARK or not entry.count:
                    continue
                log.seek(entry.at)
                data = bytes(entry.count) if entry.flags & DISCARD else log.read(entry.count)
                os.pwrite(disk.fileno(), data, entry.sector)
            os.fsync(disk.fileno())
        self.next = index

    def points(self):
        """Where the power can have failed with something promised just before: after each flush and FUA, and their marks."""
        return [i + 1 for i, entry in enumerate(self.entries) if entry.flags & (FLUSH | FUA)]

    def marks_before(self, index):
        return [entry.name for entry in self.entries[:index] if entry.flags & MARK]


def copy_disk(source, target, size):
    with Opened(source, flags=os.O_RDONLY) as a, Opened(target) as b:
        for at in range(0, size, 1 << 20):
            b.write(at, a.read(at, 1 << 20))
