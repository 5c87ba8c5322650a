# SPDX-License-Identifier: MIT
"""The fault target: what it was told to spoil is spoiled, all else is as on the target that it is over."""

import contextlib
import errno
import time

import cli
import pytest
from blockio import MIB, Opened, assert_same, fio_verify, pattern, random_fill
from cli import wait_for
from test_kill import Background, kill_server, quiesced

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face


def add_fault(lab, *rules, size_mib=8, **opts):
    """A fault device over a loop on a raw disk full of random data, and the disk."""
    disk = lab.null_blk(size_mib)
    random_fill(disk.path, size_mib * MIB)
    return lab.add("fault", disk.path, over="loop", fault=list(rules), **opts), disk.path


@contextlib.contextmanager
def fails_with(code):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code, errno.errorcode[caught.value.errno]


@pytest.mark.one_face
def test_errors_are_exactly_where_and_what_they_were_said_to_be(lab):
    device, disk = add_fault(
        lab, "op=read,range=1M-2M,error=EIO", "op=write,range=4M+64K,error=ENOSPC", "op=flush,error=EIO"
    )
    with Opened(disk) as f:
        data = f.read(0, 8 * MIB)
    with Opened(device.path) as f:
        assert f.read(0, MIB) == data[:MIB]
        assert f.read(2 * MIB, MIB) == data[2 * MIB : 3 * MIB]
        for offset, length in ((MIB, 512), (MIB - 512, 1024), (2 * MIB - 512, 1024), (MIB + 65536, 4096)):
            with fails_with(errno.EIO):
                f.read(offset, length)
        f.write(MIB, data[:4096])  # only reads fail there
        for offset in (4 * MIB, 4 * MIB + 65536 - 512):
            with fails_with(errno.ENOSPC):
                f.write(offset, bytes(512))
        f.write(4 * MIB - 512, pattern(0, 512))
        f.write(4 * MIB + 65536, pattern(512, 512))
        assert f.read(4 * MIB, 65536) == data[4 * MIB : 4 * MIB + 65536], "a failed write must not be done"
        with fails_with(errno.EIO):
            f.flush()
    info = device.info()
    assert info["target"] == "fault" and info["over"] == "loop" and info["files"] == [disk]
    assert info["faults"][1] == "op=write,range=4M+64K,error=ENOSPC"


def count_errors(path, n):
    failed = []
    with Opened(path) as f:
        for i in range(n):
            try:
                f.read(i * 4096, 4096)
            except OSError as e:
                assert e.errno == errno.EIO
                failed.append(i)
    return failed


@pytest.mark.one_face
def test_rate_is_kept_and_a_seed_repeats_it(lab):
    rule = "op=read,rate=0.25,error=EIO,range=0-4M,seed="
    first, again, other = (add_fault(lab, rule + seed)[0] for seed in ("3", "3", "4"))
    # What udev and the like have read before would shift the throws: there is none of it here.
    failed = count_errors(first.path, 400)
    assert 60 <= len(failed) <= 140
    assert count_errors(again.path, 400) == failed
    assert count_errors(other.path, 400) != failed


@pytest.mark.one_face
def test_short_io_is_continued(lab):
    device, disk = add_fault(lab, "short=512,rate=0.7", "short=4K")
    fio_verify(device.path, bsrange="4k-64k", iodepth=16, size=8 * MIB, io_size=4 * MIB)
    assert_same(device.path, disk, 8 * MIB)


def read_timed(path):
    start = time.monotonic()
    with Opened(path) as f:
        f.read(65536, 4096)
    return time.monotonic() - start


def arrived(device, before):
    wait_for("the request to have arrived", lambda: device.info()["server"]["wakeups"] > before)


@pytest.mark.one_face
def test_delays_delay_without_holding_up_others(lab):
    # long enough for a loaded machine to do the rest meanwhile
    delay = cli.seconds(4)
    device, _ = add_fault(lab, f"op=read,range=64K+4K,delay={int(delay * 1000)}ms")
    before = device.info()["server"]["wakeups"]
    with Opened(device.path) as f:
        slow = Background(read_timed, device.path)
        arrived(device, before)
        for i in range(1, 9):
            f.read(i * 4096, 4096)
        assert not slow.done(), "others wait for what is delayed"
    assert slow.join() >= delay


@pytest.mark.one_face
def test_server_that_is_killed_takes_what_it_delays_along(lab):
    device = lab.add("fault", over="null", fault="op=read,range=64K+4K,delay=3600s", size=MIB)
    before = device.info()["server"]["wakeups"]
    slow = Background(read_timed, device.path)
    arrived(device, before)
    kill_server(device)
    with pytest.raises(OSError):
        slow.join()


def test_program_that_redirects_keeps_faults_away_and_one_that_passes_does_not(lab):
    device, disk = add_fault(lab, "op=read,error=EIO")
    with Opened(device.path) as f, Opened(disk) as d:
        with fails_with(errno.EIO):
            f.read(0, 4096)
        device.attach("loop")
        assert f.read(0, 65536) == d.read(0, 65536)
        device.attach("pass", replace=True)
        with fails_with(errno.EIO):
            f.read(0, 4096)
        device.detach()
        with fails_with(errno.EIO):
            f.read(0, 4096)


@pytest.mark.one_face
def test_rules_are_still_there_after_recovery(lab):
    device, disk = add_fault(lab, "op=read,range=1M-2M,error=EIO", r=1)
    kill_server(device)
    quiesced(device)
    cli.ok("recover", "-n", device.id)
    with Opened(device.path) as f, Opened(disk) as d:
        assert f.read(0, MIB) == d.read(0, MIB)
        with fails_with(errno.EIO):
            f.read(MIB, 4096)


@pytest.mark.parametrize(
    "args, words",
    [
        (["--over", "null"], "needs a rule"),
        (["--over", "null", "--fault", "op=read"], "delay, error or short"),
        (["--over", "null", "--fault", "error=EBOGUS"], "EBOGUS"),
        (["--fault", "error=EIO"], "--over"),
        (["--over", "fault", "--fault", "error=EIO"], "over fault"),
        (["--over", "loop", "--fault", "error=EIO"], "-f FILE"),
    ],
)
def test_wrong_rules_are_refused_in_one_line(args, words):
    outcome = cli.run("add", "-t", "fault", *args)
    assert outcome.status == 2, str(outcome)
    assert words in outcome.err and len(outcome.err.strip().splitlines()) == 1
