# SPDX-License-Identifier: MIT
"""What is above a device whose program serves it: device mapper, md, partitions, file systems; and what they say of their I/O."""

import errno
import itertools
import os
from pathlib import Path

import pytest
from blockio import MIB, Load, Opened, aligned, assert_same, fio_verify, pattern
from cli import wait_for
from lab import sh, sysfs
from test_order import counted, counting_stack

BIOS = pytest.mark.parametrize("requests", [False, True], ids=["bios", "requests"])
UBLK_IO_F_FAILFAST_DEV, UBLK_IO_F_META = 1 << 8, 1 << 11


def dm_linear(lab, paths):
    return lab.device_mapper(paths[0])


def raid1(lab, paths):
    if sh("modprobe", "-q", "raid1", check=False).returncode and "raid1" not in Path("/proc/mdstat").read_text():
        pytest.skip("this kernel has no raid1")
    node = next(f"/dev/md{n}" for n in itertools.count(50) if not os.path.exists(f"/sys/block/md{n}"))
    sh("mdadm", "--build", node, "--run", "--level=1", "--raid-devices=2", "--assume-clean", *paths)
    lab.cleanup(sh, "mdadm", "--stop", node)
    return node


def partition(lab, paths):
    sh("sh", "-c", f"echo 'start=2048, type=83' | sfdisk -q --no-tell-kernel {paths[0]}")
    sh("blockdev", "--rereadpt", paths[0])
    node = f"{paths[0]}p1"
    wait_for(node, lambda: os.path.exists(node))
    return node


@BIOS
@pytest.mark.parametrize("build", [dm_linear, raid1, partition])
def test_what_is_built_on_devices_with_programs_keeps_its_data(lab, build, requests):
    disks = [lab.null_blk(16).path for _ in range(2 if build is raid1 else 1)]
    devices = [lab.add("loop", disk, q=2) for disk in disks]
    for device in devices:
        device.attach("loop", requests=requests)
    node = build(lab, [d.path for d in devices])
    fio_verify(node, bsrange="4k-64k", iodepth=16, size="8m", io_size="8m")
    for device, disk in zip(devices, disks):
        counters = device.counters()
        assert counters["redirected"] > 100 and counters["failed"] == counters["passed"] == 0
        # of a partition a stock kernel's module is shown requests
        assert (counters["bios"] > 100) == (not requests) or build is partition
        assert_same(device.path, disk, 16 * MIB)


def test_metadata_of_a_file_system_above_is_metadata_below(lab):
    outer, inner, _ = counting_stack(lab, {"flags": UBLK_IO_F_META})
    with Opened(outer.path) as f:
        f.write(0, pattern(0, 65536))
    assert counted(inner) == 0, "plain data was counted: the count proves nothing"
    sh("mkfs.ext4", "-q", "-F", outer.path)
    where = lab.mount(outer.path, "ext4")
    before = counted(inner)
    (where / "file").write_bytes(b"x")
    sh("sync", "-f", where)
    assert counted(inner) > before


def test_readahead_may_fail_fast_below(lab):
    """
    A request of bios that are readahead has the flag, a bio has not: so the device below is shown requests. What anybody has
    read of that device stays in its page cache while it is open, and is in nobody's way.
    """
    inner, _ = lab.loop_device(16)
    reader = Opened(inner.path, direct=False)
    lab.cleanup(reader.__exit__)
    reader.read(0, 4096)
    inner.attach("count", {"flags": UBLK_IO_F_FAILFAST_DEV}, requests=True)
    outer = lab.add("loop", inner.path)
    outer.attach("loop", requests=False)
    with Opened(outer.path) as f:
        f.read(8 * MIB, MIB)
    assert counted(inner) == 0, "plain reads were counted: the count proves nothing"
    sh("dd", f"if={outer.path}", "of=/dev/null", "bs=64k", "count=64", "status=none")
    assert counted(inner) > 0


@BIOS
def test_submitter_that_does_not_want_to_wait_gets_its_data_or_eagain(lab, requests):
    """While the disk below has no more tags."""
    disk = lab.null_blk(16, hw_queue_depth=2, irqmode=2, completion_nsec=1_000_000)
    with Opened(disk.path) as f:
        f.write(8 * MIB, pattern(8 * MIB, MIB))
    device = lab.add("loop", disk.path, q=1, d=8)
    device.attach("loop", requests=requests)
    outcomes = {"read": 0, "again": 0}
    with Load(device.path, size="4m", io_size="1m", iodepth=16) as load, Opened(device.path) as f:
        for n in range(1500):
            offset = 8 * MIB + n % 256 * 4096
            data = aligned(bytes(4096))
            try:
                assert os.preadv(f.fd, [data], offset, os.RWF_NOWAIT) == 4096
            except OSError as e:
                assert e.errno == errno.EAGAIN, os.strerror(e.errno)
                outcomes["again"] += 1
            else:
                assert bytes(data) == pattern(offset, 4096)
                outcomes["read"] += 1
            if outcomes["read"] > 100 and n > 500:
                break
        load.check()
    assert outcomes["read"] > 0, outcomes
    assert device.counters()["failed"] == 0


def test_writeback_is_not_throttled_twice(lab):
    """The disk below does it already."""
    disk = lab.null_blk(8)
    if not Path(f"/sys/class/block/{Path(disk.path).name}/queue/wbt_lat_usec").exists():
        pytest.skip("this kernel does not throttle writeback")
    assert int(sysfs(disk.path, "queue/wbt_lat_usec")) > 0
    device = lab.add("loop", disk.path)
    with pytest.raises(OSError) as caught:  # there is nothing that it could be the latency of
        sysfs(device.path, "queue/wbt_lat_usec")
    assert caught.value.errno == errno.EINVAL
