# SPDX-License-Identifier: MIT
"""A file that shares blocks with another one: XFS writes them elsewhere, in whole blocks, but reads them in sectors."""

import errno
import os

import pytest
from blockio import MIB, Opened, fio_verify
from lab import sh, sysfs
from test_badsqe import AT, LEN, READ, WRITE, grown, knobs_of, submit
from test_fs import SIZE, skip_unless_known
from test_stacking import attach_fds

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face


@pytest.fixture
def shared(lab):
    """There is a .copy beside it."""
    skip_unless_known("xfs")
    disk = lab.null_blk(SIZE // MIB)
    sh("mkfs.xfs", "-q", "-f", "-m", "reflink=1", disk.path)
    file = lab.file(lab.mount(disk.path, "xfs"), 4 * MIB, sparse=False)
    sh("cp", "--reflink=always", file, f"{file}.copy")
    return file


def test_reads_may_be_finer_than_writes(lab, shared):
    device = lab.add("loop", shared)
    assert sysfs(device.path, "queue/logical_block_size") == "4096"
    with Opened(shared, flags=os.O_RDONLY) as f:
        want = f.read(0, MIB)
    with Opened(device.path) as f:
        device.attach("badsqe", knobs_of(READ, {"addr": 512, "len": 1024, "off": 1536}))
        assert f.read(AT, LEN) == bytes(512) + want[1536:2560] + bytes(LEN - 1536)
        for fields, reason in (({"addr": 512, "len": LEN - 512}, "data"), ({"len": 512}, "len"), ({"off": AT + 512}, "off")):
            device.attach("badsqe", knobs_of(WRITE, fields), replace=True)
            before = device.refused()
            with pytest.raises(OSError):
                submit(f, WRITE)
            assert grown(before, device.refused()) == {reason: 1, "plan": 1}, fields
    device.attach("loop", replace=True)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    with Opened(f"{shared}.copy", flags=os.O_RDONLY) as f:
        assert f.read(0, MIB) == want, "the other file was changed"


def test_device_of_small_blocks_takes_the_file_for_reading_only(lab, shared):
    writer = lab.add("null", size=4 * MIB)
    outcome = writer.try_attach("loop", file=shared)
    assert outcome.status == 1 and outcome.json["error"]["errno"] == "EINVAL", str(outcome)
    assert "blocks of 4096" in outcome.err and "--block-size" in outcome.err
    # the kernel part looks for itself
    for flags, code in ((os.O_RDWR, errno.EINVAL), (os.O_RDONLY, 0)):
        with Opened(shared, flags=flags) as f:
            assert attach_fds(writer, [f.fd]) == code
    reader = lab.add("loop", shared, read_only=True)
    assert sysfs(reader.path, "queue/logical_block_size") == "512"
    reader.attach("loop")
    with Opened(reader.path, flags=os.O_RDONLY) as device, Opened(shared, flags=os.O_RDONLY) as f:
        for at in (0, 512, AT + 1536):
            assert device.read(at, 1024) == f.read(at, 1024)
    counters = reader.counters()
    assert counters["redirected"] > 0 and counters["failed"] == 0 and reader.refused() == {}
