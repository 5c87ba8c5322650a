# SPDX-License-Identifier: MIT
"""
The power fails at each flush and FUA of the disk that a clone's layer is on: the layer opens, `layer check` finds nothing,
what was flushed is there, and of what was not each sector is old or new. So are the snapshots.
"""

import os
import random

import cli
import pytest
from blockio import MIB, Opened
from clones import layer
from lab import sh
from write_log import LoggedDisk, Replay, copy_disk

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face

DISK = 32 * MIB
SIZE = 4 * MIB
SECTOR = 512
STEPS = int(os.environ.get("UBLK_BPF_POWER_STEPS", 120 if cli.FULL else 24))
POINTS = None if cli.FULL else 5  # that are looked at; None: all
RWF_DSYNC = 2


def content(step, sector):
    return (step << 32 | sector).to_bytes(8, "little") * (SECTOR // 8)


class History:
    """What each sector may have, by the names of the marks that are in the log."""

    def __init__(self):
        self.durable = {0: {}}  # after step: sector to the step that wrote it
        self.written = {0: []}  # in that step: sectors
        self.snapshots = {}  # name: step

    def may_have(self, sector, first, last):
        """If all up to step `first` was promised, and it was cut off before `last` was."""
        has = {self.durable[first].get(sector, 0)}
        return has | {step for step in range(first + 1, last + 1) if sector in self.written[step]}


def work(device, disk, where, seed):
    """Steps of a few writes and a flush, or one write by FUA; after each its promise is marked in the log."""
    history, chance, now = History(), random.Random(seed), {}
    with Opened(device.path) as f:
        for step in range(1, STEPS + 1):
            sectors = history.written[step] = set()
            by_fua = step % 4 == 0
            for _ in range(1 if by_fua else chance.randrange(1, 5)):
                first = chance.randrange(SIZE // SECTOR - 40)
                # parts of blocks, whole ones, and several
                count = chance.choice([1, 3, 8, 16, 33])
                if chance.random() < 0.4:
                    first, count = first // 8 * 8, 8 * chance.randrange(1, 4)
                span = range(first, first + count)
                f.write(first * SECTOR, b"".join(content(step, s) for s in span), RWF_DSYNC if by_fua else 0)
                sectors |= set(span)
            if not by_fua:
                f.flush()
            # what was written by FUA is promised, and so is all that was flushed before; nothing else is outstanding
            now.update((s, step) for s in sectors)
            history.durable[step] = dict(now)
            disk.mark(f"step{step}")
            if step % 10 == 5:
                cli.ok("snapshot", "-n", device.id, "--to", where / f"snapshot{step}")
                history.snapshots[f"snapshot{step}"] = step
                disk.mark(f"snapshot{step}")
    return history


def check_sectors(path, allowed):
    # one that is opened for use finishes a snapshot that was interrupted
    added = cli.run("add", "-t", "clone", "-f", path, "--read-only", "--json")
    if added.status:
        assert "is not sealed" in added.err, added
        added = cli.run("add", "-t", "clone", "-f", path, "--json")
    assert added.status == 0, added
    device = cli.Device(added.json)
    try:
        with Opened(device.path, flags=os.O_RDONLY) as f:
            data = bytes(f.read(0, SIZE))
    finally:
        device.delete()
    for sector in range(SIZE // SECTOR):
        has = data[sector * SECTOR:(sector + 1) * SECTOR]
        wanted = [content(step, sector) if step else bytes(SECTOR) for step in allowed(sector)]
        fits = has in wanted
        assert fits, f"sector {sector}: has step {int.from_bytes(has[:8], 'little') >> 32}, not one of {allowed(sector)}"


@pytest.mark.parametrize("bpf", [pytest.param(True, marks=pytest.mark.face), False], ids=["program", "server"])
def test_power_failure_at_any_flush_leaves_what_was_promised(lab, bpf):
    seed = int(os.environ.get("UBLK_BPF_SEED", random.SystemRandom().getrandbits(32)))
    print(f"UBLK_BPF_SEED={seed}")
    if sh("modprobe", "dm-log-writes", check=False).returncode:
        pytest.skip("this kernel has no dm-log-writes")
    data, log, copy, look = (lab.null_blk(mib) for mib in (DISK // MIB, 256, DISK // MIB, DISK // MIB))
    disk = LoggedDisk(lab, data, log)
    sh("mkfs.ext4", "-q", disk.path)
    where = lab.mount(disk.path, "ext4")
    delta = layer(where / "delta", size=SIZE)
    device = lab.add("clone", delta, r=1, no_bpf=not bpf)
    sh("sync", "-f", where)
    disk.mark("step0")
    history = work(device, disk, where, seed)
    device.delete()
    lab.umount(where)
    disk.remove()

    replay = Replay(log.path, copy.path)
    begin = next(i for i, e in enumerate(replay.entries) if e.name == "step0")
    points = [p for p in replay.points() if p > begin]
    assert len(points) >= STEPS, "each step is a flush"
    if POINTS:
        points = sorted(random.Random(seed).sample(points, min(POINTS, len(points))))
    for point in points:
        replay.to(point)
        copy_disk(copy.path, look.path, DISK)
        mount = lab.mount(look.path, "ext4")
        marks = replay.marks_before(point)
        step = max(int(m[4:]) for m in marks if m.startswith("step"))
        # what is under way is the next step
        check_sectors(mount / "delta", lambda s, now=step: history.may_have(s, now, min(now + 1, STEPS)))
        for name, at in history.snapshots.items():
            if name in marks:
                outcome = cli.run("layer", "check", mount / name)
                assert outcome.status == 0, outcome
                check_sectors(mount / name, lambda s, now=at: history.may_have(s, now, now))
        outcome = cli.run("layer", "check", mount / "delta")
        # an interrupted snapshot is finished by who opens it for use
        assert outcome.status == 0 or "is not sealed" in outcome.out, outcome
        lab.umount(mount)
