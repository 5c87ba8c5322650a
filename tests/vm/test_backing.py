# SPDX-License-Identifier: MIT
"""A backing file that shrinks, vanishes or has no room left, under I/O that the server serves: the submitter hears of it, the device lives."""

import errno
import os

import cli
import pytest
from blockio import MIB, Load, Opened, fio, fio_verify, pattern
from cli import wait_for
from lab import sh, sysfs
from leftovers import nothing_is_left  # noqa: F401 (a fixture)
from test_badinput import FAILED, check_refusal
from test_kill import kill_server, quiesced
from test_paths import BATCHED, PATHS, features, need  # noqa: F401 (a fixture)

# about the server, not about the face
pytestmark = pytest.mark.one_face


@pytest.fixture(params=[*PATHS, "batch"])
def path(request, features):  # noqa: F811
    batch = request.param == "batch"
    name = BATCHED[-1] if batch else request.param
    need(features, PATHS[name][1])
    need(features, "batch_io" if batch else None)
    return {"data_path": name, "b": batch}


def test_file_that_is_cut_and_restored_under_io(lab, path):
    file = lab.ext4_file(8, sparse=False)
    device = lab.add("loop", file, q=2, **path)
    pid = device.server_pid()
    with Load(device.path, must_succeed=False, size="8m", io_size="1m", iodepth=16, verify_fatal=0) as load:
        for size in (4 * MIB, 0, 8 * MIB - 512, 100):
            before = load.rounds
            os.truncate(file, size)
            wait_for("a round of I/O", lambda b=before: load.error or load.rounds > b, 120)
    with Opened(device.path) as f:
        os.truncate(file, 4 * MIB)
        with pytest.raises(OSError) as caught:
            f.read(6 * MIB, 65536)
        assert caught.value.errno == errno.EIO
        # a write there makes it longer again, as a write to the file would
        f.write(6 * MIB, pattern(6 * MIB, 65536))
        assert f.read(6 * MIB, 65536) == pattern(6 * MIB, 65536)
    os.truncate(file, 8 * MIB)
    fio_verify(device.path, bs="4k", iodepth=8, size=8 * MIB, io_size=MIB)
    assert device.state() == "live" and device.server_pid() == pid


def test_disk_that_is_pulled_under_io(lab, path):
    disk = lab.null_blk(8)
    device = lab.add("loop", disk.path, q=2, **path)
    pid = device.server_pid()
    with Load(device.path, must_succeed=False, size="8m", io_size="1m", iodepth=16, verify_fatal=0) as load:
        wait_for("a round of I/O", lambda: load.error or load.rounds)
        disk.remove()
        before = load.rounds
        wait_for("a round of I/O", lambda: load.error or load.rounds > before, 120)
    with Opened(device.path) as f:
        for io in (lambda: f.read(0, 4096), lambda: f.write(0, bytes(4096))):
            with pytest.raises(OSError):
                io()
    assert device.state() == "live" and device.server_pid() == pid


def fuse(lab):
    """An ext4 that a process serves."""
    sh("modprobe", "-q", "fuse", check=False)
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this kernel has no FUSE")
    disk = lab.null_blk(16).path
    sh("mkfs.ext4", "-q", "-F", disk)
    where = lab.tmp / "fuse"
    where.mkdir()
    sh("fuse2fs", disk, where)
    lab.cleanup(lab.umount, where)
    return where


# the smallest that are needed here
FILE_SYSTEMS = {"ext4": lambda lab: lab.ext4(16), "tmpfs": lambda lab: lab.mount("none", "tmpfs", "size=16m"), "fuse": fuse}


@pytest.mark.parametrize("buffered", [False, True], ids=["direct", "buffered"])
@pytest.mark.parametrize("fstype", FILE_SYSTEMS)
def test_full_file_system(lab, fstype, buffered):
    where = FILE_SYSTEMS[fstype](lab)
    file = lab.file(where, 32 * MIB)
    device = lab.add("loop", file, q=2, buffered=buffered)
    pid = device.server_pid()
    result = fio(device.path, check=False, rw="write", bs="256k", iodepth=8, size=32 * MIB)
    assert result is None or result["error"] == errno.ENOSPC
    with Opened(device.path) as f:
        with pytest.raises(OSError) as caught:
            for at in range(0, 32 * MIB, MIB):
                f.write(at, pattern(at, MIB))
        assert caught.value.errno == errno.ENOSPC
        # what is there is read, what is not is zeroes, and what is freed can be used
        assert len(f.read(0, 32 * MIB - MIB)) == 31 * MIB
        f.discard(0, 16 * MIB)
        f.write(MIB, pattern(MIB, MIB))
        assert f.read(MIB, MIB) == pattern(MIB, MIB)
        assert f.read(2 * MIB, MIB) == bytes(MIB)
    assert device.state() == "live" and device.server_pid() == pid


@pytest.mark.face
@pytest.mark.parametrize("fstype,can_zero", [("ext4", True), ("tmpfs", False), ("fuse", False)])
def test_zeroes_are_announced_where_each_kind_of_them_works(lab, fstype, can_zero):
    file = lab.file(FILE_SYSTEMS[fstype](lab), 4 * MIB)
    blocks = os.stat(file).st_blocks
    device = lab.add("loop", file)
    assert os.stat(file).st_blocks == blocks, "to try it has changed the file"
    assert (int(sysfs(device.path, "queue/write_zeroes_max_bytes")) > 0) == can_zero
    assert int(sysfs(device.path, "queue/discard_max_bytes")) > 0
    device.attach("loop")
    with Opened(device.path) as f:
        for wipe in [f.zeroout, f.zero_range, f.discard, *([f.punch] if can_zero else [])]:
            f.write(0, pattern(0, MIB))
            wipe(0, MIB)
            assert f.read(0, MIB) == bytes(MIB)
    counters = device.counters()
    assert counters["failed"] == 0 and counters["redirected"] > 0


def test_file_that_was_deleted_is_served_on_and_not_recovered_without_it(lab):
    file = lab.ext4_file(8)
    device = lab.add("loop", file, r=1)
    os.rename(file, f"{file}.away")
    with Opened(device.path) as f:
        f.write(0, pattern(0, 65536))
    kill_server(device)
    quiesced(device)
    outcome = cli.run("recover", "-n", device.id, "--json")
    assert len(check_refusal(outcome, os.path.basename(file), FAILED, "ENOENT")) == 1
    # nor with a smaller one that has its name
    with open(file, "wb") as f:
        f.truncate(4 * MIB)
    outcome = cli.run("recover", "-n", device.id, "--json")
    assert len(check_refusal(outcome, os.path.basename(file), FAILED)) == 1
    assert device.state() == "quiesced"
    # back in its place nothing is lost
    os.rename(f"{file}.away", file)
    cli.ok("recover", "-n", device.id)
    with Opened(device.path) as f:
        assert f.read(0, 65536) == pattern(0, 65536)


def test_size_that_is_no_multiple_of_the_block_size(lab):
    disk = lab.null_blk(8)
    for block, size in ((512, 1000), (4096, MIB + 512)):
        outcome = cli.run("add", "-t", "loop", "-f", disk.path, "--size", size, "--block-size", block, "--json")
        assert outcome.status == 2 and str(size) in outcome.err, str(outcome)
        assert len(outcome.err.strip().splitlines()) == 1
    # where only the file's own block size says so
    coarse = lab.null_blk(8, blocksize=4096)
    outcome = cli.run("add", "-t", "loop", "-f", coarse.path, "--size", MIB + 512, "--json")
    assert len(check_refusal(outcome, "4096", FAILED, "EINVAL")) == 1


def test_file_whose_end_is_no_whole_block_is_served_up_to_there(lab):
    """As the kernel's loop device does; what is beyond is not touched, and is said."""
    file = lab.ext4_file(1)
    os.truncate(file, MIB + 700)
    with open(file, "r+b") as f:
        f.seek(MIB)
        f.write(b"x" * 700)
    outcome = cli.run("add", "-t", "loop", "-f", file, "--block-size", 4096, "--json")
    assert outcome.status == 0, str(outcome)
    device = cli.Device(outcome.json)
    lab.cleanup(device.delete)
    assert device.size == MIB
    assert "700 bytes" in outcome.err and len(outcome.err.strip().splitlines()) == 1
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    with open(file, "rb") as f:
        f.seek(MIB)
        assert f.read() == b"x" * 700
