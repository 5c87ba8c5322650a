# SPDX-License-Identifier: MIT
"""Races whose windows are a few instructions long, made long enough to be met each time."""

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import cli
import pytest
import stacks
from blockio import MIB, Opened, assert_same, fio_verify, pattern
from cli import wait_for
from lab import sh, write_file
from test_kill import Background, quiesced
from test_paths import features, need  # noqa: F401 (a fixture)
from tracing import held_up, needs_tracing

ROUNDS = 5


@needs_tracing
@pytest.mark.parametrize("batch", [False, True], ids=["", "batch"])
def test_command_that_a_server_hands_in_while_it_is_quiesced_is_canceled_whole(lab, features, batch):  # noqa: F811
    """Who finds the command may complete it: by then it has to be marked, or the ring keeps a stale entry."""
    need(features, "batch_io" if batch else None)
    disk = lab.null_blk(16, irqmode=2, completion_nsec=100_000)
    device = lab.add("loop", disk.path, r=1, q=1, d=32, b=batch)
    with held_up("slow_mark"):
        for _ in range(ROUNDS):
            load = subprocess.Popen(
                ["fio", "--name=j", f"--filename={device.path}", "--rw=randread", "--bs=4k", "--ioengine=libaio", "--direct=1",
                 "--iodepth=32", "--thread", "--time_based", "--runtime=600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                inflight = Path(f"/sys/block/ublkb{device.id}/inflight")
                wait_for("I/O", lambda i=inflight: int(i.read_text().split()[0]) > 8)
                cli.ok("quiesce", "-n", device.id, *(["--fail-io"] if batch else []))
                cli.ok("recover", "-n", device.id)
            finally:
                load.kill()
                load.wait()
    fio_verify(device.path, bs="4k", iodepth=16, size="2m")


@needs_tracing
def test_server_that_dies_while_it_is_quiesced_is_no_reason_to_warn(lab):
    """Its ring finds commands that QUIESCE_DEV has taken, but not completed yet."""
    device = lab.add("null", size="1M", r=1, q=1, d=64)
    for _ in range(ROUNDS):
        pid = device.server_pid()
        with held_up("slow_done") as times:
            quiesce = Background(cli.run, "quiesce", "-n", device.id, "--json")
            wait_for("some of its commands to be canceled", lambda: times() > 2)
            os.kill(pid, signal.SIGKILL)
            quiesce.join()
        quiesced(device)
        cli.ok("recover", "-n", device.id)
    with Opened(device.path) as f:
        f.read(0, 4096)


def write(path):
    with Opened(path) as f:
        f.write(0, pattern(0, MIB))


def freeze(queue, stop):
    """For a moment, again and again."""
    while not stop.is_set():
        write_file(queue / "max_sectors_kb", 32)


def test_bio_that_is_split_while_a_program_is_attached_does_not_wait_for_itself(lab):
    """
    Its first parts have become requests, the next are the program's. What these submit must not come after the rest of
    the bio, which waits for whoever freezes the queue, who waits for them.
    """
    disk = lab.null_blk(16, irqmode=2, completion_nsec=20_000)
    device = lab.add("loop", disk.path, q=1, d=1, max_io="32K")
    queue = Path(f"/sys/block/ublkb{device.id}/queue")
    for _ in range(ROUNDS):
        server, stop = device.server_pid(), multiprocessing.Event()
        tasks = [multiprocessing.Process(target=write, args=(device.path,), daemon=True),
                 multiprocessing.Process(target=freeze, args=(queue, stop), daemon=True)]
        os.kill(server, signal.SIGSTOP)
        try:
            tasks[0].start()
            wait_for("a request", lambda: (queue.parent / "inflight").read_text().split() == ["0", "1"])
            device.attach("slow", requests=False)
            tasks[1].start()
        finally:
            os.kill(server, signal.SIGCONT)
        tasks[0].join(cli.seconds(30))
        stop.set()
        tasks[1].join(cli.seconds(30))
        assert [t.exitcode for t in tasks] == [0, 0], f"hangs, or has failed:\n{stacks.waiting()}"
        assert device.counters()["bios"] > 0
        device.detach()
    assert_same(device.path, disk.path, 16 * MIB)


@pytest.fixture
def group():
    """A cgroup whose I/O is counted and can be limited."""
    root = Path("/sys/fs/cgroup")
    if "io" not in (root / "cgroup.controllers").read_text().split():
        pytest.skip("this kernel has no io controller")
    (root / "cgroup.subtree_control").write_text("+io")
    where = root / "ublk-bpf-io"
    where.mkdir()
    yield where
    wait_for("the cgroup to be empty", lambda: not (where / "cgroup.procs").read_text())
    where.rmdir()


@pytest.mark.parametrize("name", ["loop", "pass", None])
def test_bio_counts_once_whoever_serves_it(lab, group, name):
    """A limit of I/Os per second is one of what users ask for."""
    device, _ = lab.loop_device(4)
    if name:
        device.attach(name)
    number = sh("cat", f"/sys/block/ublkb{device.id}/dev").stdout.strip()
    dd = ["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=64", "iflag=direct", "status=none"]
    subprocess.run(dd, preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())), timeout=cli.seconds(60), check=True)

    def counted():
        lines = [line.split() for line in (group / "io.stat").read_text().splitlines()]
        return next((dict(p.split("=") for p in line[1:]) for line in lines if line[0] == number), None)

    seen = wait_for("what was read", counted)
    assert (seen["rios"], seen["rbytes"]) == ("64", str(64 * 4096)), seen
