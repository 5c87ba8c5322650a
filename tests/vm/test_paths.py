# SPDX-License-Identifier: MIT
"""
Data paths: however a request's data gets to the server and back, what was
written is what is read, and the device and what is behind it are the same. Each
path serves each target, alone and what a program passes to it.
"""

import errno
import os
import signal

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, checksums, fio_verify, pattern, random_fill

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face

SIZE = 8 * MIB
RWF_DSYNC = 2

# name: the option that other ublk tools have for it, the driver's feature
PATHS = {
    "copy": (None, None),
    "user-copy": ("-u", "user_copy"),
    "need-get-data": ("-g", "need_get_data"),
    "zero-copy": ("-z", "zero_copy"),
    "auto-zero-copy": ("--auto-zc", "auto_buf_reg"),
}
# in batches too
BATCHED = ["copy", "user-copy", "zero-copy", "auto-zero-copy"]


@pytest.fixture(scope="module")
def features():
    found = cli.probe()["features"]
    return {f["name"]: f["available"] for f in found}


def need(features, feature):
    if feature and not features[feature]:
        pytest.skip(f"this kernel's ublk_drv has no {feature}")


def options(name, features, batch=False):
    need(features, PATHS[name][1])
    need(features, "batch_io" if batch else None)
    return {"data_path": name, "b": batch}


@pytest.fixture(params=PATHS)
def path(request, features):
    """The options of a data path."""
    return options(request.param, features)


@pytest.fixture(params=BATCHED)
def batch_path(request, features):
    return options(request.param, features, batch=True)


def add(lab, path, target="loop", file=None, **opts):
    device = lab.add(target, file, **path, **opts)
    assert_path(device, path)
    return device


def assert_path(device, path):
    info = device.info()
    assert (info["data_path"], info["batch"]) == (path["data_path"], path["b"])


def kill(device):
    pid = device.server_pid()
    os.kill(pid, signal.SIGKILL)
    cli.wait_for(f"server {pid} to be gone", lambda: not os.path.exists(f"/proc/{pid}"))


def verify(device):
    """Sizes from one sector to the largest request, many at a time."""
    fio_verify(device.path, bsrange="512-1m", bs_unaligned=0, iodepth=32, size=SIZE,
               io_size=4 * MIB, serialize_overlap=1)


@pytest.mark.parametrize("backing", ["raw", *(pytest.param(b, marks=pytest.mark.one_face) for b in ("file", "buffered-file"))])
def test_what_is_written_is_read_back_and_in_the_backing(lab, path, backing):
    file = lab.null_blk(SIZE // MIB).path if backing == "raw" else lab.ext4_file(SIZE // MIB)
    device = add(lab, path, file=file, buffered=backing == "buffered-file", q=2)
    verify(device)
    with Opened(device.path) as f:
        f.flush()
    assert_same(device.path, file, SIZE)


def test_batches_serve_what_a_program_passes_and_outlive_the_server(lab, batch_path):
    file = lab.ext4_file(SIZE // MIB)
    device = add(lab, batch_path, file=file, q=2, r=1)
    device.attach("mixed")
    verify(device)
    assert device.counters()["passed"] > 0
    device.detach()
    kill(device)
    cli.ok("recover", "-n", device.id)
    assert_path(device, batch_path)
    verify(device)
    with Opened(device.path) as f:
        f.flush()
        f.discard(MIB, MIB)
        assert f.read(MIB, MIB) == bytes(MIB)
    assert_same(device.path, file, SIZE)


@pytest.mark.one_face
def test_null_may_leave_pages_as_they_are(lab, path):
    device = add(lab, path, "null", size=SIZE, no_fill=True)
    with Opened(device.path) as f:
        assert len(f.read(0, 65536)) == 65536
        f.write(0, pattern(0, 65536))
        after = f.read(0, 65536)
    if "zero-copy" in path:
        assert after == b"\xa5" * 65536, "the reader's pages were touched"


@pytest.mark.one_face
def test_null_reads_zeroes_and_drops_writes(lab, path):
    device = add(lab, path, "null", size=SIZE)
    with Opened(device.path) as f:
        assert f.read(0, MIB) == bytes(MIB), "old memory came back instead of zeroes"
        f.write(0, pattern(0, MIB))
        f.flush()
        f.discard(0, MIB)


@pytest.mark.parametrize("program", ["pass", "mixed"])
def test_server_serves_what_a_program_passes(lab, path, program):
    disk = lab.null_blk(SIZE // MIB).path
    device = add(lab, path, file=disk, q=2)
    device.attach(program)
    verify(device)
    counters = device.counters()
    assert counters["passed"] > 0 and counters["failed"] == 0
    assert (counters["redirected"] > 0) == (program == "mixed")
    device.detach()
    assert_same(device.path, disk, SIZE)


@pytest.mark.one_face
def test_flush_fua_discard_and_write_zeroes_reach_the_file(lab, path):
    file = lab.ext4_file(SIZE // MIB, sparse=False)
    device = add(lab, path, file=file)
    before = checksums(file, SIZE)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 65536), RWF_DSYNC)
        f.flush()
        f.discard(MIB, MIB)
        f.punch(2 * MIB, MIB)
        f.zero_range(3 * MIB, MIB)
        for at in (MIB, 2 * MIB, 3 * MIB):
            assert f.read(at, MIB) == bytes(MIB), f"at {at // MIB} MiB are no zeroes"
        assert f.read(0, 65536) == pattern(0, 65536)
    assert checksums(file, SIZE)[4:] == before[4:]
    assert_same(device.path, file, SIZE)


@pytest.mark.one_face
def test_device_outlives_its_server_and_keeps_its_path(lab, path):
    file = lab.null_blk(SIZE // MIB).path
    device = add(lab, path, file=file, r=1, i=1)
    with Load(device.path, size="4m", io_size="512k") as load:
        cli.wait_for("a round of I/O", lambda: load.rounds or load.error)
        kill(device)
        cli.ok("recover", "-n", device.id)
        rounds = load.rounds
        cli.wait_for("I/O to go on", lambda: load.rounds > rounds or load.error)
    assert_path(device, path)
    assert_same(device.path, file, SIZE)


@pytest.mark.one_face
def test_reads_past_the_end_of_a_file_that_shrank_fail(lab, path):
    file = lab.ext4_file(SIZE // MIB, sparse=False)
    device = add(lab, path, file=file)
    os.truncate(file, SIZE // 2)
    with Opened(device.path) as f, Opened(file) as inside:
        assert f.read(0, MIB) == inside.read(0, MIB)
        with pytest.raises(OSError) as error:
            f.read(SIZE // 2, 65536)
        assert error.value.errno == errno.EIO


@pytest.mark.one_face
@pytest.mark.parametrize("name", [n for n, (flag, _) in PATHS.items() if flag])
def test_flags_of_other_tools_choose_the_path(lab, name, features):
    flag, feature = PATHS[name]
    outcome = cli.run("add", "-t", "null", flag, "--json")
    if not features[feature]:
        assert outcome.status == 1 and f"data path {name}: this kernel lacks it" in outcome.err
        return
    assert outcome.status == 0, str(outcome)
    device = cli.Device(outcome.json)
    lab.cleanup(device.delete)
    assert device.info()["data_path"] == name


def test_default_is_the_best_that_the_driver_has(lab, features):
    best = next(
        name for name in ("auto-zero-copy", "zero-copy", "copy")
        if PATHS[name][1] is None or features[PATHS[name][1]]
    )
    assert cli.probe()["data_path"] == best
    assert lab.add("null").info()["data_path"] == best


@pytest.mark.one_face
def test_short_and_late_io_goes_on_where_it_was(lab, path):
    disk = lab.null_blk(SIZE // MIB).path
    faults = ["short=512,rate=0.5", "short=64K,delay=1ms"]
    device = add(lab, path, "fault", disk, over="loop", fault=faults)
    fio_verify(device.path, bsrange="512-256k", bs_unaligned=0, iodepth=16, size=SIZE, io_size=2 * MIB,
               serialize_overlap=1)
    assert_same(device.path, disk, SIZE)


@pytest.mark.one_face
def test_errors_of_the_backing_are_the_requests(lab, path):
    disk = lab.null_blk(SIZE // MIB).path
    device = add(lab, path, "fault", disk, over="loop", fault=["range=1M-2M,error=ENOSPC"])
    with Opened(device.path) as f:
        for io in (lambda: f.read(MIB, 65536), lambda: f.write(MIB, pattern(MIB, 65536))):
            with pytest.raises(OSError) as error:
                io()
            assert error.value.errno == errno.ENOSPC
        f.write(2 * MIB, pattern(0, 65536))
        assert f.read(2 * MIB, 65536) == pattern(0, 65536)
