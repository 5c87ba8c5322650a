# SPDX-License-Identifier: MIT
"""A file's operations look at the I/O after it has completed, in an interrupt say; until they have returned, nothing of it may go."""

import fcntl
import multiprocessing
import os
import random
import struct
import time
from pathlib import Path

import cli
import pytest
import tracing
from blockio import BLKDISCARD, MIB, Opened, pattern
from cli import wait_for
from lab import sh

SECONDS = float(os.environ.get("UBLK_BPF_RACE_SECONDS", "4"))
# what all readers read
SIZE = 64 << 10


@pytest.fixture
def held_up(lab):  # which deletes its devices after that, when nobody is held up any more
    """Between submission and return: each task named held..., or, where nothing can be traced, whoever runs on processor 0."""
    if cli.TRACEPOINTS:
        with tracing.held_up("slow_return"):
            yield
    else:
        hog = multiprocessing.Process(target=preempt, daemon=True)
        hog.start()
        yield
        hog.kill()
        hog.join()


def preempt():
    """A real-time task that now and then takes the processor from the reader."""
    Path("/proc/sys/kernel/sched_rt_runtime_us").write_text("-1")
    os.sched_setaffinity(0, {0})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    while True:
        time.sleep(random.uniform(0.0005, 0.004))
        until = time.monotonic() + 0.03
        while time.monotonic() < until:
            pass


def reader(path, stop, wrong):
    Path("/proc/thread-self/comm").write_text("held")
    os.sched_setaffinity(0, {0})
    want = pattern(0, SIZE)
    with Opened(path, flags=os.O_RDONLY) as f:
        while not stop.is_set():
            at = random.randrange(SIZE // 4096) * 4096
            if f.read(at, 4096) != want[at : at + 4096]:
                wrong.set()


def other_kinds(path, stop, wrong):
    """Takes the tag as soon as the reader's request has ended."""
    os.sched_setaffinity(0, {1})
    rounds = 0
    with Opened(path) as f:
        while not stop.is_set():
            at = SIZE + rounds % 64 * 4096
            rounds += 1
            try:
                if rounds % 3 == 0:
                    f.write(at, pattern(at, 4096))
                elif rounds % 3 == 1:
                    fcntl.ioctl(f.fd, BLKDISCARD, struct.pack("QQ", at, 4096))
                else:
                    f.flush()
            except OSError:
                wrong.set()


class Tasks:
    """Processes, each on one processor, as the interpreter's lock would keep threads from racing."""

    def __init__(self, path, *functions):
        self.stop, self.wrong = multiprocessing.Event(), multiprocessing.Event()
        self.all = [multiprocessing.Process(target=f, args=(path, self.stop, self.wrong)) for f in functions]

    def __enter__(self):
        for task in self.all:
            task.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for task in self.all:
            task.join(cli.seconds(60))
        hanging = [t.pid for t in self.all if t.is_alive()]
        assert not hanging, f"{hanging} hang"
        assert not self.wrong.is_set(), "wrong data, or a request failed"
        assert all(t.exitcode == 0 for t in self.all), [t.exitcode for t in self.all]


def file_with_pattern(lab, directory):
    path = lab.file(directory, MIB, sparse=False)
    with Opened(path) as f:
        f.write(0, pattern(0, SIZE))
    return path


def slow_ext4(lab):
    """Its I/O completes in a timer's interrupt, some time after it was submitted."""
    disk = lab.null_blk(64, irqmode=2, completion_nsec=20000, submit_queues=2)
    sh("mkfs.ext4", "-q", "-F", disk.path)
    return lab.mount(disk.path, "ext4")


@pytest.mark.parametrize("flags", [{}, {"no_inline": True}], ids=["inline", "lane"])
def test_request_and_its_tag_are_not_used_again_before_the_submission_has_returned(lab, held_up, flags):
    device = lab.add("loop", file_with_pattern(lab, slow_ext4(lab)), q=1, d=1)
    device.attach("loop", **flags)
    with Tasks(device.path, reader, other_kinds) as tasks:
        before = device.counters()["redirected"]
        tasks.stop.wait(cli.seconds(SECONDS))
    counters = device.counters()
    assert counters["redirected"] > before + 20 and counters["failed"] == 0


@pytest.mark.parametrize("flags", [{}, {"no_inline": True}], ids=["inline", "lane"])
def test_file_is_not_closed_before_the_submission_has_returned(lab, held_up, flags):
    mount = slow_ext4(lab)
    device = lab.add("loop", file_with_pattern(lab, mount), q=1, d=2)
    device.attach("loop", **flags)
    with Tasks(device.path, reader):
        until = time.monotonic() + cli.seconds(SECONDS)
        while time.monotonic() < until:
            path = file_with_pattern(lab, mount)
            device.attach("loop", file=path, replace=True, **flags)
            os.unlink(path)
    wait_for("reads", lambda: device.counters()["redirected"] > 20)
    assert device.counters()["failed"] == 0
