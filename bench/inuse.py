# SPDX-License-Identifier: MIT
"""Whether a disk may be written to: not if anybody has it."""

import errno
import os
import stat
from pathlib import Path


class InUse(Exception):
    """Who has it."""


def openers(rdev):
    """Processes that have this block device open."""
    found = []
    for p in Path("/proc").iterdir():
        if not p.name.isdigit():
            continue
        try:
            for fd in (p / "fd").iterdir():
                st = fd.stat()
                if stat.S_ISBLK(st.st_mode) and st.st_rdev == rdev and int(p.name) != os.getpid():
                    found.append(f"{(p / 'comm').read_text().strip()} ({p.name})")
                    break
        except OSError:
            continue
    return found


def mounts(rdev):
    """Where a file system on it is mounted."""
    number = f"{os.major(rdev)}:{os.minor(rdev)}"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[2] == number]


def partitions(name):
    return [p.name for p in Path("/sys/class/block", name).glob(f"{name}*") if (p / "partition").exists()]


def is_claimed(node):
    """By a mount, a device above it, swap, or whoever opened it with O_EXCL. Claims it for a moment."""
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL))
    except OSError as e:
        if e.errno == errno.EBUSY:
            return True
        raise
    return False


def users(node):
    """Who has it: what is above it, or else who has merely opened it, with O_EXCL or without."""
    rdev = os.stat(node).st_rdev
    name = os.path.basename(os.path.realpath(node))
    found = [f"mounted at {m}" for m in mounts(rdev)]
    found += [f"held by {h.name}" for h in Path("/sys/class/block", name, "holders").glob("*")]
    swaps = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    found += ["used as swap" for s in swaps if os.path.exists(s) and os.stat(s).st_rdev == rdev and stat.S_ISBLK(os.stat(s).st_mode)]
    for part in partitions(name):
        found += [f"{part} is {what}" for what in users(f"/dev/{part}")]
    # The kernel does not show who opened it with O_EXCL: if nothing above has claimed it, one of these did.
    how = "claimed (O_EXCL) and open" if not found and is_claimed(node) else "open"
    opened = [f"{how} in {p}" for p in openers(rdev)]
    if how != "open" and not opened:
        opened = ["claimed by what is not seen from here, a process or a file system of another namespace"]
    return found + opened


def must_be_free(node):
    """Raises InUse unless node is a block device that nobody has."""
    try:
        st = os.stat(node)
    except OSError as e:
        raise InUse(f"{node}: {e.strerror}") from e
    if not stat.S_ISBLK(st.st_mode):
        raise InUse(f"{node}: is not a block device: what is on it would be overwritten, so a whole disk is asked for")
    found = users(node)
    if found:
        raise InUse(f"{node}: is {'; '.join(found)}: it would be overwritten, give a disk that nobody uses")
    try:
        os.close(os.open(node, os.O_RDWR | os.O_EXCL))
    except OSError as e:
        raise InUse(f"{node}: {e.strerror}: it would be overwritten, give a disk that nobody uses") from e
