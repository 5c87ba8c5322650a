# SPDX-License-Identifier: MIT
"""stripe: chunks in turn on the legs; and add --chunk, so that no request crosses one."""

import errno
import os

import cli
import pytest
from blockio import MIB, Opened, fio, fio_verify, random_fill
from lab import sysfs
from test_kill import kill_server, quiesced
from test_order import flushes

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face

K64 = 65536


def woven(paths, size, chunk):
    """What the device has to be, by its legs."""
    legs = []
    for path in paths:
        with Opened(path, flags=os.O_RDONLY) as f:
            legs.append(f.read(0, size // len(paths)))
    return b"".join(legs[i % len(legs)][i // len(legs) * chunk :][:chunk] for i in range(size // chunk))


def content(path, size):
    with Opened(path, flags=os.O_RDONLY) as f:
        return b"".join(f.read(at, min(MIB // 8, size - at)) for at in range(0, size, MIB // 8))


@pytest.mark.parametrize("legs, chunk, whole", [(2, K64, True), (3, 4096, False), (4, K64, False), (8, 4096, True)])
def test_chunks_lie_in_turn_on_the_legs(lab, legs, chunk, whole):
    """`whole`: the block layer splits at each chunk, else at each eighth."""
    paths = [lab.null_blk(1).path for _ in range(legs)]
    for path in paths:
        random_fill(path, MIB)
    size = legs * MIB
    device = lab.add("null", size=size, q=2, chunk=chunk if whole else 8 * chunk)
    device.attach("stripe", {"chunk_sectors": chunk // 512}, file=paths)
    assert content(device.path, size) == woven(paths, size, chunk)
    before = device.counters()
    fio_verify(device.path, bsrange="512-128k", bs_unaligned=0, iodepth=16, size=size, io_size=MIB, serialize_overlap=1)
    after = device.counters()
    split = (after["sqes"] - before["sqes"]) > (after["redirected"] - before["redirected"])
    assert split != whole, f"{before} {after}"
    assert content(device.path, size) == woven(paths, size, chunk)
    assert after["failed"] == after["aborted"] == 0 and not device.refused()


@pytest.mark.parametrize("requests", [False, True], ids=["bios", "requests"])
def test_without_chunks_of_the_device_eight_are_a_plan_and_nine_are_refused(lab, requests):
    paths = [lab.null_blk(8).path for _ in range(2)]
    device = lab.add("null", size=16 * MIB)
    device.attach("stripe", {"chunk_sectors": 8}, file=paths, requests=requests)
    data = os.urandom(9 * 4096)
    with Opened(device.path) as f:
        f.write(512, data[: 7 * 4096 + 512])  # the first and the last in part
        assert f.read(512, 7 * 4096 + 512) == data[: 7 * 4096 + 512]
        for submit in (lambda: f.write(0, data), lambda: f.read(0, len(data)), lambda: f.read(512, 8 * 4096)):
            with pytest.raises(OSError) as caught:
                submit()
            assert caught.value.errno == errno.EIO
    assert {"full", "plan"} & set(device.refused()), device.refused()


def test_chunks_that_are_no_power_of_two_and_too_many_legs_fail(lab):
    disk = lab.null_blk(4).path
    device = lab.add("null", size=4 * MIB)
    for knobs, files in (({"chunk_sectors": 24}, 2), ({"chunk_sectors": 0}, 2), ({}, 9)):
        device.attach("stripe", knobs, file=[disk] * files, replace=device.info()["bpf"]["attached"])
        with Opened(device.path) as f, pytest.raises(OSError):
            f.read(0, 4096)
    assert device.counters()["aborted"] >= 3


def test_flush_reaches_all_legs(lab):
    disks = [lab.null_blk(4, cache_size=2) for _ in range(3)]
    device = lab.add("null", size=12 * MIB)
    device.attach("stripe", file=[d.path for d in disks])
    with Opened(device.path) as f:
        f.write(0, os.urandom(3 * K64))
        before = [flushes(d.path) for d in disks]
        f.flush()
        after = [flushes(d.path) for d in disks]
    assert all(x > y for x, y in zip(after, before)), f"{before} {after}"


def test_what_is_discarded_or_zeroed_is_a_range_of_each_leg(lab):
    # of files: null_blk cannot punch holes
    where = lab.ext4(96)
    paths = [lab.file(where, 2 * MIB, sparse=False) for _ in range(3)]
    size = 6 * MIB
    device = lab.add("null", size=size, chunk=K64)
    device.attach("stripe", file=paths)
    want = bytearray(content(device.path, size))
    with Opened(device.path) as f:
        # within a chunk; from the middle of one to the middle of another, of each leg first; all of some rows
        for nth, (at, length) in enumerate([(4096, 8192), (K64 + 512, 5 * K64), (9 * K64 - 512, 1024), (12 * K64, 9 * K64),
                                            (40 * K64 + 8192, 2 * MIB)]):
            (f.discard, f.zero_range, f.punch)[nth % 3](at, length)
            want[at : at + length] = bytes(length)
    assert content(device.path, size) == want == woven(paths, size, K64)
    assert not device.refused() and device.counters()["passed"] == 0


@pytest.mark.parametrize("target", ["loop", pytest.param("null", marks=pytest.mark.full)])
def test_no_request_crosses_a_chunk_also_after_recovery(lab, target):
    disk = lab.null_blk(8)
    file = disk.path if target == "loop" else None
    # of no power of two
    device = lab.add(target, file, chunk=12288, r=1, q=2, **({} if file else {"size": 8 * MIB}))
    for _ in range(2):
        assert cli.ok("info", "-n", device.id)["params"]["chunk_bytes"] == 12288
        assert sysfs(device.path, "queue/chunk_sectors") == "24"
        device.attach("loop", file=disk.path)
        before = device.counters()
        fio(device.path, rw="read", bs=12288, size=12288 * 64, iodepth=4)
        fio(device.path, rw="write", bs="24k", offset=4096, size=24576 * 32, iodepth=4)
        asked = device.counters()["redirected"] - before["redirected"]
        # each 24 KiB of these are the end of a chunk, a chunk, the begin of one
        assert asked == 64 + 32 * 3, f"{asked} requests"
        device.detach()
        kill_server(device)
        quiesced(device)
        cli.ok("recover", "-n", device.id)


def test_chunk_of_part_of_a_block_is_refused(lab):
    disk = lab.null_blk(8)
    for chunk, more in (("6K", ["--block-size", "4096"]), ("700", []), ("4T", []), ("0", []), ("x", [])):
        outcome = cli.run("add", "-t", "loop", "-f", disk.path, "--chunk", chunk, *more)
        assert outcome.status and "--chunk" in outcome.err, str(outcome)
