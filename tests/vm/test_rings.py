# SPDX-License-Identifier: MIT
"""A device is never below itself: not by a program, however many layers lie between, and not beyond a depth."""

import itertools

import pytest
from blockio import MIB, Opened, assert_same, fio_verify, pattern
from lab import sh
from test_kill import Background

# uapi/ublk_bpf.h
DEEPEST = 8


def devices(lab, count, size_mib=8):
    """The last one is deleted first: those above go before those below, which they keep open."""
    return [lab.add("null", size=size_mib * MIB) for _ in range(count)]


def must_be_a_ring(device, file):
    outcome = device.try_attach("loop", file=file)
    assert outcome.status == 1, f"a ring was made: {outcome}"
    assert outcome.json["error"]["errno"] == "ELOOP", str(outcome)
    assert not device.info()["bpf"]["attached"]


def must_work(device, file):
    device.attach("loop", file=file, replace=device.info()["bpf"]["attached"])
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_ring_of_devices_is_refused(lab, count):
    disk = lab.null_blk(8)
    ring = devices(lab, count)[::-1]
    for upper, lower in itertools.pairwise(ring):
        upper.attach("loop", file=lower.path)
    must_be_a_ring(ring[-1], ring[0].path)
    # the chain itself is good
    must_work(ring[-1], disk.path)
    with Opened(ring[0].path) as f:
        f.write(0, pattern(0, 65536))
    with Opened(disk.path) as f:
        assert f.read(0, 65536) == pattern(0, 65536)


def test_replacing_one_that_is_no_ring_by_one_that_is(lab):
    disk = lab.null_blk(8)
    lower, upper = devices(lab, 2)
    upper.attach("loop", file=lower.path)
    lower.attach("loop", file=disk.path)
    outcome = lower.try_attach("loop", file=upper.path, replace=True)
    assert outcome.status == 1 and outcome.json["error"]["errno"] == "ELOOP", str(outcome)
    with Opened(upper.path) as f:
        f.write(0, pattern(0, 65536))
    with Opened(disk.path) as f:
        assert f.read(0, 65536) == pattern(0, 65536)
    # no longer a ring once the upper one has gone elsewhere
    upper.attach("loop", file=disk.path, replace=True, shared=True)
    must_work(lower, upper.path)
    lower.detach()


def test_of_two_that_close_a_ring_at_once_one_is_refused(lab):
    first, second = devices(lab, 2)
    for _ in range(10):
        both = [Background(lambda a=a, b=b: a.try_attach("loop", file=b.path)) for a, b in ((first, second), (second, first))]
        outcomes = [one.join() for one in both]
        made = [o.status == 0 for o in outcomes]
        assert sum(made) == 1, "\n".join(map(str, outcomes))
        loser = outcomes[made.index(False)]
        assert loser.json["error"]["errno"] == "ELOOP", str(loser)
        (first if made[0] else second).detach()


def ext4_file(lab, path):
    sh("mkfs.ext4", "-q", "-F", path)
    return lab.file(lab.mount(path, "ext4"), 4 * MIB)


# what lies between a device and the one above it: the layer's device or file
LAYERS = {
    "loop": lambda lab, path: lab.kernel_loop(path),
    "dm": lambda lab, path: lab.device_mapper(path),
    "file": ext4_file,
    "file-on-loop": lambda lab, path: ext4_file(lab, lab.kernel_loop(path)),
    "loop-on-dm": lambda lab, path: lab.kernel_loop(lab.device_mapper(path)),
    "loop-on-file": lambda lab, path: lab.kernel_loop(ext4_file(lab, path)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_device_below_itself_through_another_layer_is_refused(lab, layer):
    """What is between belongs to the kernel, which hides it from us, or to the command, which can see it in sysfs."""
    device, _ = lab.loop_device(16)
    above = LAYERS[layer](lab, device.path)
    outcome = device.try_attach("loop", file=above)
    assert outcome.status == 1, f"a ring was made: {outcome}"
    assert outcome.json["error"]["errno"] in ("ELOOP", "EINVAL"), str(outcome)
    other = lab.add("null", size=4 * MIB)
    other.attach("loop", file=above)
    must_be_a_ring(device, other.path)


def test_tower_of_devices_works_up_to_a_depth(lab):
    """Over a disk that completes in interrupts: each level's completion calls the next one's."""
    disk = lab.null_blk(8, irqmode=2, completion_nsec=10000)
    tower, below = [], disk.path
    for device in devices(lab, DEEPEST + 1):
        outcome = device.try_attach("loop", file=below)
        if outcome.status:
            assert outcome.json["error"]["errno"] == "ELOOP", str(outcome)
            break
        tower.append(device)
        below = device.path
    top = tower[-1]
    for job in ({"iodepth": 32, "bs": "4k"}, {"iodepth": 4, "bs": "256k"}, {"direct": 0, "ioengine": "psync", "bs": "16k"}):
        fio_verify(top.path, size="4m", **job)
    assert_same(top.path, disk.path, 8 * MIB)
    assert all(d.counters()["failed"] == 0 for d in tower)
    assert 4 <= len(tower) <= DEEPEST, f"{len(tower)} devices lie one on the other: there is no limit"
    for device in reversed(tower):
        device.detach()
