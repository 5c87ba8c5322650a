# SPDX-License-Identifier: MIT
"""Disks that fail of their own accord, device mapper's flakey and scsi_debug, below a program whose errors are made good."""

import time
from pathlib import Path

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, fio, random_fill
from cli import wait_for
from lab import sh
from test_complete import AS_IT_IS, BIOS, READ
from test_kill import Background, kill_server

# What fails in the kernel is read once more from file 1. (Its FLUSHes and writes are file 0's.)
OTHER_LEG = {"op": READ, "verdict": AS_IT_IS, "failed_only": True, "rounds": 1, "other_from": 1}


# What becomes of what waits for the server when that dies, and the device's state then.
RECOVERY = {"requeue": ({"r": 1}, "quiesced"), "reissue": ({"r": 1, "i": 1}, "quiesced"), "fail": ({"r": 1, "e": 1}, "fail_io")}


def flakey(lab, path, up=1):
    """A view of the disk that fails all I/O for a second after so many seconds, always if that is none."""
    return lab.device_mapper(path, "flakey", f"{up} 1")


def scsi_debug(**options):
    """It stays: loaded again, it may find a name of its own taken."""
    sh("modprobe", "-q", "sd_mod", check=False)
    if sh("modprobe", "-q", "scsi_debug", *(f"{k}={v}" for k, v in options.items()), check=False).returncode:
        pytest.skip("this kernel has no scsi_debug")

    def disk():
        return next((p for p in Path("/sys/block").glob("sd*") if (p / "device/model").read_text().startswith("scsi_debug")), None)

    wait_for("the disk of scsi_debug", disk)
    path = f"/dev/{disk().name}"
    wait_for(path, Path(path).exists)
    return path


@BIOS
def test_disk_that_comes_and_goes_loses_nothing(lab, requests):
    """Reads are repeated in the kernel, writes and flushes by the server; both on the same disk, by a way that does not fail."""
    disk = lab.null_blk(16)
    random_fill(disk.path, 16 * MIB)
    view = flakey(lab, disk.path)
    device = lab.add("loop", disk.path, q=2)
    device.attach("complete", OTHER_LEG, file=[view, disk.path], pass_errors=True, requests=requests)
    with Load(device.path, size="4m", io_size="2m", bsrange="4k-32k", iodepth=16, fsync=32) as load:
        wait_for("errors of each kind", lambda: load.error or (device.counters()["rounds"] > 50 and device.counters()["errors_passed"] > 50), 120)
        load.check()
    counters = device.counters()
    assert counters["failed"] == 0 and counters["aborted"] == 0
    assert_same(device.path, disk.path, 16 * MIB)


@pytest.mark.parametrize("recovery", ["requeue", "reissue"])
def test_reads_outlive_a_disk_and_the_server(lab, recovery):
    options, without_server = RECOVERY[recovery]
    disk = lab.null_blk(8)
    random_fill(disk.path, 8 * MIB)
    view = flakey(lab, disk.path)
    device = lab.add("loop", disk.path, **options)
    device.attach("complete", OTHER_LEG, file=[view, disk.path])
    kill_server(device)
    wait_for("the device to have no server", lambda: device.state() == without_server)
    until = time.monotonic() + 4
    while time.monotonic() < until or device.counters()["rounds"] < 20:
        fio(device.path, rw="randread", bsrange="4k-64k", iodepth=16, io_size=MIB)
    assert device.counters()["failed"] == 0
    cli.ok("recover", "-n", device.id)
    assert_same(device.path, disk.path, 8 * MIB)


# scsi_debug: reads of these ten sectors are medium errors
MEDIUM_ERROR, BAD_SECTOR = 2, 0x1234
BAD = BAD_SECTOR * 512 // 4096 * 4096


def read_error(path):
    with Opened(path) as f:
        try:
            f.read(BAD, 4096)
        except OSError as e:
            return e.errno
    return 0


def with_medium_error(lab):
    """A disk, and one with the same content of which some sectors cannot be read."""
    bad = scsi_debug(dev_size_mb=16, opts=MEDIUM_ERROR, delay=0)
    good = lab.null_blk(16)
    random_fill(good.path, 16 * MIB)
    with Opened(good.path) as g, Opened(bad) as b:
        for offset in range(0, 16 * MIB, MIB):
            b.write(offset, g.read(offset, MIB))
    return good.path, bad


def with_flakey(lab):
    """A disk, and a view of it that always fails."""
    good = lab.null_blk(16)
    random_fill(good.path, 16 * MIB)
    return good.path, flakey(lab, good.path, up=0)


@BIOS
@pytest.mark.parametrize("recovery", RECOVERY)
@pytest.mark.parametrize("disks", [with_flakey, with_medium_error])
def test_errors_of_a_disk_that_are_passed_while_there_is_no_server(lab, disks, recovery, requests):
    good, bad = disks(lab)
    options, without_server = RECOVERY[recovery]
    device = lab.add("loop", good, **options)
    device.attach("loop", file=bad, pass_errors=True, requests=requests)
    kill_server(device)
    wait_for("the device to have no server", lambda: device.state() == without_server)
    before = device.counters()["errors_passed"]
    with Opened(device.path) as f, Opened(good) as g:
        reading = Background(f.read, BAD, 4096)
        if recovery == "fail":  # the program is not even asked
            with pytest.raises(OSError):
                reading.join()
            cli.ok("recover", "-n", device.id)
            reading = Background(f.read, BAD, 4096)
        else:
            wait_for("it to be passed", lambda: device.counters()["errors_passed"] > before)
            assert not reading.done()
            cli.ok("recover", "-n", device.id)
        assert reading.join() == g.read(BAD, 4096)


@BIOS
@pytest.mark.parametrize("disks", [with_flakey, with_medium_error])
def test_device_without_recovery_goes_while_a_disk_fails_and_nothing_hangs(lab, disks, requests):
    good, bad = disks(lab)
    device = lab.add("fault", good, over="loop", fault="failed=bpf,delay=3600s")
    device.attach("loop", file=bad, pass_errors=True, requests=requests)
    with Opened(device.path) as f:
        reading = Background(f.read, BAD, 4096)
        wait_for("it to be passed", lambda: device.counters()["errors_passed"] >= 1)
        kill_server(device)
        with pytest.raises(OSError):
            reading.join()


@BIOS
def test_medium_error_is_told_and_made_good(lab, requests):
    good, bad = with_medium_error(lab)
    device = lab.add("loop", good)
    device.attach("loop", file=bad, requests=requests)
    assert read_error(device.path) == read_error(bad) != 0, "the device's error is not the disk's"
    device.attach("loop", file=bad, pass_errors=True, requests=requests, replace=True)
    assert_same(device.path, good, 16 * MIB)
    passed = device.counters()["errors_passed"]
    assert passed >= 1
    device.attach("complete", OTHER_LEG, file=[bad, good], requests=requests, replace=True)
    assert_same(device.path, good, 16 * MIB)
    counters = device.counters()
    assert counters["errors_passed"] == passed and counters["rounds"] >= 1
