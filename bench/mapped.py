# SPDX-License-Identifier: MIT
"""
Device mapper's and md's ways to do what programs do, over disks of their own. Each is set up in the cheapest way that it has, and what
is measured is its everyday: all that it allocates at a first write is there before.
"""

import os
from contextlib import suppress
from itertools import count

import dm
import lab
import measure
from way import Absent, Made, Way, need_tool

NO_LOG = "core 2 1024 nosync"  # regions of 512 KiB, in sync from the beginning, which only memory knows
STRIPE_SECTORS = 128
SNAPSHOT_CHUNK_SECTORS = 8
THIN_BLOCK_SECTORS = 128


def sectors_of(node):
    return int(lab.sh("blockdev", "--getsz", node))


def _create(stack, name, kind, params, sectors, module):
    """A device of one target, until the stack is closed."""
    if not os.path.exists("/dev/mapper/control") and not lab.have_module("dm_mod"):
        raise Absent("this kernel has no device mapper")
    if module:
        lab.have_module(module)
    try:
        dev = dm.create(name, [(0, sectors, kind, params)])
    except OSError as e:
        with suppress(OSError):
            dm.remove(name)
        raise Absent(f"device mapper does not make a {kind} device: {e.strerror}: has this kernel {module or kind}?") from e
    stack.callback(dm.remove, name)
    return lab.wait_for(f"/dev/dm-{os.minor(dev)}")


def _name(kind, disks):
    return f"ublk-bpf-bench-{kind}-{os.path.basename(disks[0])}"


def write_all(node, mib=measure.SPAN_BYTES >> 20):
    lab.sh("dd", "if=/dev/zero", f"of={node}", "bs=1M", f"count={mib}", "oflag=direct", "status=none")


def linear(disks, stack, shape):
    return Made(_create(stack, _name("linear", disks), "linear", f"{disks[0]} 0", sectors_of(disks[0]), None))


def stripe(disks, stack, shape):
    params = f"{len(disks)} {STRIPE_SECTORS} " + " ".join(f"{d} 0" for d in disks)
    return Made(_create(stack, _name("stripe", disks), "striped", params, len(disks) * sectors_of(disks[0]), None))


def mirror(disks, stack, shape):
    params = f"{NO_LOG} {len(disks)} " + " ".join(f"{d} 0" for d in disks)
    return Made(_create(stack, _name("mirror", disks), "mirror", params, sectors_of(disks[0]), "dm-mirror"))


def empty_snapshot(disks, stack):
    """Nothing is copied yet."""
    origin, store = disks
    # what is there is taken for a snapshot
    write_all(store, 1)
    params = f"{origin} {store} P {SNAPSHOT_CHUNK_SECTORS}"
    return Made(_create(stack, _name("snapshot", disks), "snapshot", params, sectors_of(origin), "dm-snapshot"))


def snapshot(disks, stack, shape):
    made = empty_snapshot(disks, stack)
    write_all(made.node)
    return made


def thin(disks, stack, shape):
    data, metadata = disks
    write_all(metadata, 1)
    pool = _name("pool", disks)
    pool_node = _create(stack, pool, "thin-pool", f"{metadata} {data} {THIN_BLOCK_SECTORS} 0", sectors_of(data), "dm-thin-pool")
    try:
        dm.message(pool, "create_thin 0")
    except OSError as e:
        raise Absent(f"{pool}: create_thin: {e.strerror}") from e
    node = _create(stack, _name("thin", disks), "thin", f"{pool_node} 0", sectors_of(data) // 2, "dm-thin-pool")
    write_all(node)
    return Made(node)


def raid1(disks, stack, shape):
    need_tool("mdadm", "mdadm")
    if not os.path.isdir("/sys/module/raid1") and not lab.have_module("raid1"):
        raise Absent("this kernel has no md raid1")
    node = next(f"/dev/md{n}" for n in count(100) if not os.path.exists(f"/sys/block/md{n}"))
    lab.sh("mdadm", "--build", node, "--run", "--level=1", f"--raid-devices={len(disks)}", "--assume-clean", *disks)
    stack.callback(lab.sh, "mdadm", "--stop", node)
    return Made(lab.wait_for(node))


LINEAR = Way("dm-linear", "device mapper, one linear target", linear, disks=(False,))
WAYS = [
    LINEAR,
    Way("dm-stripe", "device mapper, four legs, stripes of 64 KiB", stripe, disks=(False,) * 4),
    Way("dm-mirror", "device mapper, two legs; which regions are in sync is kept in memory only", mirror, disks=(False,) * 2),
    Way("md raid1", "mdadm --build, two legs, no superblock, no write-intent bitmap", raid1, disks=(False,) * 2),
    Way("dm-snapshot", "device mapper, persistent, chunks of 4 KiB, all of them copied before", snapshot, disks=(False,) * 2),
    Way("dm-thin", "device mapper, blocks of 64 KiB, all of them allocated before; its metadata on a disk in memory", thin, disks=(False, True)),
]
