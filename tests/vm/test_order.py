# SPDX-License-Identifier: MIT
"""What has to be durable is, in the order asked for; what is zeroed or discarded is."""

import errno
import os

import pytest
from blockio import MIB, Opened, pattern, random_fill
from cli import wait_for
from lab import sh, sysfs

UBLK_IO_OP_FLUSH = 2
UBLK_IO_OP_DISCARD = 3
UBLK_IO_F_FUA = 1 << 13
K64 = 65536


def flushes(path):
    """Flush requests that the disk has completed."""
    return int(sysfs(path, "stat").split()[15])


@pytest.fixture
def caching_disk(lab):
    """A disk with a volatile cache: its content is lost unless it is flushed."""
    disk = lab.null_blk(16, cache_size=8)
    if sysfs(disk.path, "queue/write_cache") != "write back":
        pytest.skip("null_blk of this kernel has no volatile cache")
    return disk


@pytest.mark.parametrize("name", ["loop", "passflush"])
def test_flush_reaches_the_backing(lab, caching_disk, name):
    device = lab.add("loop", caching_disk.path)
    device.attach(name)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
        before = flushes(caching_disk.path)
        f.flush()
        assert flushes(caching_disk.path) > before


def test_flush_reaches_both_files_of_concat(lab):
    disks = [lab.null_blk(8, cache_size=4) for _ in range(2)]
    device = lab.add("null", size=16 * MIB)
    device.attach("concat", {"split_sectors": 8 * MIB // 512}, file=[d.path for d in disks])
    with Opened(device.path) as f:
        for half in range(2):
            f.write(half * 8 * MIB, pattern(0, 4096))
        before = [flushes(d.path) for d in disks]
        f.flush()
        after = [flushes(d.path) for d in disks]
    assert all(x > y for x, y in zip(after, before)), f"{before} {after}"


def counting_stack(lab, knobs, program="loop"):
    """A device over a ublk device that counts requests of one kind, and that one."""
    inner, disk = lab.loop_device(16)
    inner.attach("count", knobs)
    outer = lab.add("loop", inner.path)
    outer.attach(program)
    return outer, inner, disk


def counted(device):
    counters = device.counters()
    return counters["sqes"] - counters["redirected"]


def test_fua_is_durable_in_the_backing(lab):
    """As FUA or, where the backing below has none, as a flush that follows."""
    outer, inner, disk = counting_stack(lab, {"flags": UBLK_IO_F_FUA, "op": UBLK_IO_OP_FLUSH})
    with Opened(outer.path) as f:
        f.write(0, pattern(0, 4096))
        before = counted(inner)
        f.write(4096, pattern(4096, 4096))
        assert counted(inner) == before, "a plain write was counted: the count proves nothing"
        f.write(8192, pattern(8192, 4096), os.RWF_DSYNC)
        assert counted(inner) > before
    with Opened(disk) as f:
        assert f.read(0, 12288) == pattern(0, 12288)


def test_fsync_of_a_file_flushes_through_two_devices(lab):
    outer, inner, _ = counting_stack(lab, {"op": UBLK_IO_OP_FLUSH})
    with Opened(outer.path) as f:
        f.write(0, pattern(0, 4096))
        before = counted(inner)
        f.flush()
        assert counted(inner) > before


def test_detach_makes_what_it_wrote_durable(lab, caching_disk):
    """The server's later flush may be for another file."""
    device = lab.add("null", size=16 * MIB)
    device.attach("loop", file=caching_disk.path)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
    before = flushes(caching_disk.path)
    device.detach()
    assert flushes(caching_disk.path) > before


def blocks(path):
    """Allocated bytes of a file."""
    sh("sync", "-f", path)
    return os.stat(path).st_blocks * 512


ZEROING = {
    "discard": lambda f, off, length: f.discard(off, length),
    "punch": lambda f, off, length: f.punch(off, length),
    "zero_range": lambda f, off, length: f.zero_range(off, length),
    "zeroout": lambda f, off, length: f.zeroout(off, length),
}


@pytest.mark.parametrize("how", ZEROING)
def test_zeroed_range_of_a_file_reads_zero(lab, how):
    file = lab.ext4_file(16, sparse=False)
    device = lab.add("loop", file)
    device.attach("loop")
    if how == "discard" and sysfs(device.path, "queue/discard_max_bytes") == "0":
        pytest.fail("the device of a file on ext4 takes no discard")
    allocated = blocks(file)
    with Opened(file) as f:
        expect = bytearray(f.read(0, 16 * MIB))
    ranges = [(0, K64), (MIB + 4096, 4096), (5 * MIB, 3 * MIB), (15 * MIB + 512 * 1024, 512 * 1024)]
    with Opened(device.path) as f:
        for offset, length in ranges:
            ZEROING[how](f, offset, length)
            expect[offset : offset + length] = bytes(length)
        assert f.read(0, 16 * MIB) == expect
        f.flush()
    with Opened(file) as f:
        assert f.read(0, 16 * MIB) == expect
    freed = allocated - blocks(file)
    total = sum(length for _, length in ranges)
    if how in ("discard", "punch"):
        assert freed >= total - len(ranges) * 8192, f"{freed} of {total} bytes were given back"
    else:
        assert freed <= 8192, f"{freed} bytes were given back that were to be kept"
    counters = device.counters()
    assert counters["redirected"] > 0 and counters["passed"] == 0 and counters["failed"] == 0


@pytest.mark.parametrize("how", ZEROING)
def test_zeroed_range_of_a_device_is_what_the_same_on_the_backing_is(lab, how):
    files = [lab.ext4_file(16, sparse=False) for _ in range(2)]
    direct, through = map(lab.kernel_loop, files)
    device = lab.add("loop", through)
    device.attach("loop")
    data = pattern(0, 4 * MIB)
    results = []
    for path in (direct, device.path):
        with Opened(path) as f:
            f.write(0, data)
            try:
                ZEROING[how](f, MIB, MIB)
                results.append(None)
            except OSError as e:
                results.append(e.errno)
            f.flush()
            expect = data[:MIB] + bytes(MIB) + data[2 * MIB :] if results[-1] is None else data
            assert f.read(0, 4 * MIB) == expect
    assert results[0] == results[1]
    assert abs(blocks(files[0]) - blocks(files[1])) <= 16384, "one gave back space, the other did not"
    assert device.counters()["passed"] == 0


@pytest.mark.parametrize("how", ["punch", "discard"])
def test_what_the_backing_cannot_do_the_device_cannot(lab, how):
    """null_blk writes no zeroes, so neither does a device over it: never success without effect."""
    device, disk = lab.loop_device(8)
    device.attach("loop")
    with Opened(device.path) as f:
        f.write(0, pattern(0, K64))
        try:
            ZEROING[how](f, 0, K64)
            expect = bytes(K64)
        except OSError as e:
            assert e.errno == errno.EOPNOTSUPP
            expect = pattern(0, K64)
        assert f.read(0, K64) == expect
        f.zeroout(0, K64)
        assert f.read(0, K64) == bytes(K64)
    with Opened(disk) as f:
        assert f.read(0, K64) == bytes(K64)


def test_discard_of_the_whole_device(lab):
    file = lab.ext4_file(32, sparse=False)
    device = lab.add("loop", file)
    device.attach("loop")
    sh("blkdiscard", device.path)
    assert blocks(file) <= 64 * 1024
    assert os.stat(file).st_size == 32 * MIB
    with Opened(device.path) as f:
        assert f.read(0, MIB) == bytes(MIB)


def test_bytes_of_a_read_that_no_sqe_covers_are_zero(lab):
    device, disk = lab.loop_device(8)
    with Opened(disk) as f:
        f.write(0, pattern(0, 8 * MIB, seed=9))
    for hole in (0, 1):
        device.attach("half", {"hole": hole}, replace=bool(hole))
        with Opened(device.path) as f:
            for length in (1024, 4096, K64):
                got = f.read(MIB, length)
                want = pattern(MIB, length, seed=9)
                if hole:
                    assert got == bytes(512) + want[512:]
                else:
                    assert got == want[:512] + bytes(length - 512)
        # through the page cache, in requests of many pages
        with Opened(device.path, direct=False) as f:
            f.drop_cache()
            data = f.read(2 * MIB, MIB)
        zeroes = data.count(0)
        assert zeroes > (0 if hole else MIB - 300 * 512)


def test_write_that_is_not_covered_whole_fails_and_writes_nothing(lab):
    disk = lab.ext4_file(8)
    with Opened(disk) as f:
        f.write(0, pattern(0, 8 * MIB))
    device = lab.add("loop", disk)
    device.attach("half", {"writes": 1})
    with Opened(device.path) as f:
        with pytest.raises(OSError, match="Input/output error"):
            f.write(MIB, b"\xff" * 4096)
        with pytest.raises(OSError):
            f.punch(MIB, K64)
        f.write(2 * MIB, b"\xee" * 512)  # whole
    assert device.refused()["uncovered"] >= 2
    with Opened(disk) as f:
        assert f.read(0, 2 * MIB) == pattern(0, 2 * MIB)
        assert f.read(2 * MIB, 512) == b"\xee" * 512


def test_linked_sqe_is_not_issued_when_the_one_before_fails(lab):
    first, second = lab.null_blk(8), lab.null_blk(8)
    device = lab.add("null", size=8 * MIB)
    files = [first.path, second.path]
    beyond = {"first_off": 8 * MIB}

    device.attach("linked", beyond, file=files)
    with Opened(device.path) as f, pytest.raises(OSError):
        f.write(0, b"\x11" * 4096)
    with Opened(second.path) as f:
        assert f.read(0, 4096) == bytes(4096), "it was issued after a failure"

    device.attach("linked", {**beyond, "link": 0}, file=files, replace=True)
    with Opened(device.path) as f, pytest.raises(OSError):
        f.write(0, b"\x22" * 4096)
    with Opened(second.path) as f:
        assert f.read(0, 4096) == b"\x22" * 4096, "without the link it must be issued"

    device.attach("linked", file=files, replace=True)
    before = device.counters()
    with Opened(device.path) as f:
        f.write(8192, pattern(8192, K64))
    after = device.counters()
    assert after["sqes"] - before["sqes"] == 3 and after["failed"] == before["failed"]
    for path in files:
        with Opened(path) as f:
            assert f.read(8192, K64) == pattern(8192, K64)


def test_flush_waits_for_a_slow_backing(lab):
    """A flush is not completed before the backing's is."""
    slow = lab.null_blk(8, irqmode=2, completion_nsec=200_000_000, cache_size=4)
    device = lab.add("loop", slow.path)
    device.attach("loop")
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
        before = flushes(slow.path)
        f.flush()
        wait_for("the flush in the backing's statistics", lambda: flushes(slow.path) > before, 1)


def test_read_only_device_refuses_writes(lab):
    disk = lab.null_blk(8)
    random_fill(disk.path, 8 * MIB)
    device = lab.add("loop", disk.path, read_only=True)
    device.attach("loop")
    assert sysfs(device.path, "ro") == "1"
    with Opened(device.path, flags=os.O_RDONLY) as f, Opened(disk.path) as g:
        assert f.read(0, MIB) == g.read(0, MIB)
    with pytest.raises(OSError), Opened(device.path) as f:
        f.write(0, bytes(4096))
