# SPDX-License-Identifier: MIT
"""A program that passes each request or redirects it, by chance: the server and the program are one device."""

import pytest
from blockio import MIB, Load, Opened, assert_same, fio, fio_verify, pattern
from cli import ok, wait_for
from lab import sh, write_file
from test_kill import kill_server, quiesced
from test_order import caching_disk, flushes  # noqa: F401 (a fixture)
from test_paths import features, need  # noqa: F401 (a fixture)

SIZE = 16 * MIB
JOB = {"bsrange": "4k-16k", "iodepth": 16, "size": SIZE, "serialize_overlap": 1, "fsync": 8}


def shared_fairly(device):
    counters = device.counters()
    return counters["passed"] > 20 and counters["redirected"] > 20 and counters["failed"] == 0


@pytest.mark.parametrize("part", [32, 128, 224])
def test_what_is_written_is_what_is_read_whoever_serves(lab, part):
    device, disk = lab.loop_device(16, q=2)
    device.attach("randpass", {"redirect_of_256": part})
    fio_verify(device.path, io_size=4 * MIB, **JOB)
    assert shared_fairly(device), device.counters()
    assert_same(device.path, disk, SIZE)


@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
def test_what_is_passed_in_batches_is_served_though_the_last_of_many_is_redirected(lab, features, scheduler):  # noqa: F811
    """A scheduler hands requests over one by one and says which is the last; the server is told of all when that comes."""
    need(features, "batch_io")
    sh("modprobe", "-q", "mq-deadline", check=False)
    device, disk = lab.loop_device(16, q=1, b=True)
    write_file(f"/sys/class/block/ublkb{device.id}/queue/scheduler", scheduler)
    device.attach("randpass", {"redirect_of_256": 224})
    fio_verify(device.path, io_size=4 * MIB, iodepth_batch=16, timeout=30, **JOB)
    assert shared_fairly(device), device.counters()
    assert_same(device.path, disk, SIZE)


def test_server_hears_of_each_batch_whose_last_request_is_redirected(lab, features):  # noqa: F811
    """A scheduler sorts eight reads, and hands them over in one go: nobody comes after the last one, which the program has."""
    need(features, "batch_io")
    sh("modprobe", "-q", "mq-deadline", check=False)
    device, _ = lab.loop_device(16, q=1, b=True)
    write_file(f"/sys/class/block/ublkb{device.id}/queue/scheduler", "mq-deadline")
    device.attach("eighth")
    fio(device.path, rw="read:4k", bs="4k", iodepth=8, iodepth_batch=8, iodepth_batch_complete_min=8, size="8m", io_size="1m", timeout=30)
    counters = device.counters()
    assert (counters["passed"], counters["redirected"]) == (224, 32), counters


def test_flush_covers_what_completed_before_it_whoever_serves(lab, caching_disk):  # noqa: F811
    device = lab.add("loop", caching_disk.path)
    device.attach("randpass")
    with Opened(device.path) as f, Opened(caching_disk.path) as d:
        for i in range(48):
            f.write(i * 4096, pattern(i * 4096, 4096))
            before = flushes(caching_disk.path)
            f.flush()
            assert flushes(caching_disk.path) > before, f"flush {i} did not reach the disk"
            assert d.read(i * 4096, 4096) == pattern(i * 4096, 4096)
    counters = device.counters()
    assert counters["passed"] > 5 and counters["redirected"] > 5


def test_nothing_is_lost_when_the_server_is_killed_in_between(lab):
    device, disk = lab.loop_device(16, q=2, r=1, i=1)
    device.attach("randpass")
    with Load(device.path, io_size=MIB, **JOB) as load:
        for _ in range(2):
            rounds = load.rounds
            kill_server(device)
            quiesced(device)
            ok("recover", "-n", device.id)
            wait_for("a round of I/O", lambda r=rounds: load.error or load.rounds > r, 120)
            load.check()
    assert shared_fairly(device), device.counters()
    assert_same(device.path, disk, SIZE)
