# SPDX-License-Identifier: MIT
"""Replacing and detaching wait for I/O that may never end: they can be killed, they hold up nobody else, and what they began goes on."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import cli
import pytest
from blockio import MIB, Opened, fio_verify, pattern
from cli import wait_for
from lab import sh
from test_kill import Background


@contextlib.contextmanager
def frozen(where):
    sh("fsfreeze", "-f", where)
    try:
        yield
    finally:
        sh("fsfreeze", "-u", where, check=False)


def start(*args):
    """With a deadline that is longer than anything that a test does meanwhile."""
    args = [*args, "--deadline", int(cli.seconds(120))]
    return subprocess.Popen([cli.COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(device, command):
    """Until the command has replaced what was attached, and waits."""
    def look():
        assert command.poll() is None, f"did not wait: {command.communicate()}"
        return device.info()["bpf"]["retiring"] == 1

    wait_for("it to have begun", look)


@pytest.mark.parametrize("command", ["detach", "replace"])
def test_command_that_waits_for_a_frozen_backing_can_be_killed(lab, command):
    where = lab.ext4(64)
    device = lab.add("loop", lab.file(where, 8 * MIB, sparse=False))
    other = lab.add("null", size="1M")
    spare = lab.null_blk(8).path
    device.attach("loop")
    with frozen(where):
        with Opened(device.path) as f:
            write = Background(f.write, MIB, pattern(MIB, 4096))
            wait_for("the write to wait", lambda: device.counters()["deferred"] >= 1)
            args = ["detach", "-n", device.id] if command == "detach" else \
                ["attach", "-n", device.id, "--replace", "--file", spare, cli.program("subprog")]
            waits = start(*args)
            begun(device, waits)
            # nobody else is held up
            assert cli.ok("info", "-n", device.id) and not write.done()
            other.attach("null")
            other.detach()
            assert waits.poll() is None, f"did not wait: {waits.communicate()}"
            waits.send_signal(signal.SIGKILL)
            waits.communicate(timeout=cli.seconds(20))
            # what it has begun is done
            assert device.info()["bpf"]["attached"] is (command == "replace")
            assert device.info()["bpf"]["retiring"] == 1
            sh("fsfreeze", "-u", where)
            write.join()
            wait_for("the rest to be done", lambda: device.info()["bpf"]["retiring"] == 0)
            if command == "detach":
                assert f.read(MIB, 4096) == pattern(MIB, 4096)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


def test_flush_waits_for_what_was_replaced(lab):
    """And only a flush: reads and writes go on by the new program."""
    where = lab.ext4(64)
    device = lab.add("loop", lab.file(where, 8 * MIB, sparse=False))
    disk = lab.null_blk(8).path
    device.attach("loop")
    with frozen(where):
        with Opened(device.path) as f:
            write = Background(f.write, MIB, pattern(MIB, 4096))
            wait_for("the write to wait", lambda: device.counters()["deferred"] >= 1)
            replace = start("attach", "-n", device.id, "--replace", "--file", disk, cli.program("loop"))
            begun(device, replace)
            f.write(0, pattern(0, 4096))
            assert f.read(0, 4096) == pattern(0, 4096)
            flushes = [Background(f.flush) for _ in range(3)]
            fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
            assert not any(flush.done() for flush in flushes) and not write.done()
            sh("fsfreeze", "-u", where)
            write.join()
            for flush in flushes:
                flush.join()
            _, err = replace.communicate(timeout=cli.seconds(30))
            assert replace.returncode == 0, err
    bpf = device.info()["bpf"]
    assert bpf["retiring"] == 0 and bpf["sync_failed"] == 0 and bpf["sync_error"] is None


def rescuers():
    """Threads of workqueues that memory reclaim counts on."""
    names = [p.read_text().strip() for p in Path("/proc").glob("[0-9]*/comm") if os.access(p, os.R_OK)]
    return sorted(n for n in names if n.startswith("kworker/R-ublk"))


def attached_to_a_disk(lab):
    """One that does its work by itself: null_blk needs nobody's unless it keeps the data."""
    device = lab.add("null", size="1M")
    device.attach("loop", file=lab.null_blk(1, memory_backed=0, discard=0).path)
    with Opened(device.path) as f:
        f.read(0, 4096)
    return device


def test_devices_share_their_rescuers(lab):
    attached_to_a_disk(lab)
    few = rescuers()
    for _ in range(3):
        attached_to_a_disk(lab)
    assert rescuers() == few and few, "a thread for each device that ever had a program"


def test_device_on_another_has_rescuers_of_its_own(lab):
    """
    One that serves both would wait for itself. And what waits for the reserve of memory waits for the lanes' I/O: one
    rescuer for both would, too.
    """
    lower = attached_to_a_disk(lab)
    before = rescuers()
    upper = lab.add("null", size="1M")
    upper.attach("loop", file=lower.path)
    with Opened(upper.path) as f:
        f.read(0, 4096)
    own = set(rescuers()) - set(before)
    assert len(rescuers()) == len(before) + 2 and {n.rsplit("_", 1)[1] for n in own} == {"own", "slow"}, own


def stable_backing(lab):
    """A disk that compresses its data while it is written, so that it must not change meanwhile."""
    if sh("modprobe", "zram", "num_devices=0", check=False).returncode or not os.path.exists("/sys/class/zram-control"):
        pytest.skip("this kernel has no zram")
    number = Path("/sys/class/zram-control/hot_add").read_text().strip()
    lab.cleanup(lambda: Path("/sys/class/zram-control/hot_remove").write_text(number))
    Path(f"/sys/block/zram{number}/disksize").write_text(str(8 * MIB))
    return f"/dev/zram{number}"


def test_backing_that_needs_stable_pages_makes_the_device_need_them(lab):
    disk = stable_backing(lab)
    device = lab.add("null", size="8M", block_size=4096)
    stable = Path(f"/sys/block/{Path(device.path).name}/queue/stable_writes")
    assert stable.read_text().strip() == "0"
    with Opened(device.path):
        outcome = device.try_attach("loop", file=disk)
        assert outcome.status == 1 and outcome.json["error"]["errno"] == "ETXTBSY", str(outcome)
        assert "stable pages" in outcome.err and f"({os.getpid()})" in outcome.err
    device.attach("loop", file=disk)
    assert stable.read_text().strip() == "1"
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


def test_who_only_has_a_look_does_not_keep_the_device_from_stable_pages(lab):
    """As udev and blkid do after an add."""
    disk = stable_backing(lab)
    device = lab.add("null", size="8M", block_size=4096)
    looks = subprocess.Popen(["sleep", "1"], stdin=open(device.path, "rb"))
    lab.cleanup(looks.wait)
    device.attach("loop", file=disk)


OPENS = """
import os, sys, time
while not os.path.exists(sys.argv[2]):
    try:
        os.open(sys.argv[1], os.O_RDONLY)
    except OSError:
        continue
    time.sleep(1)
    break
"""


def test_nor_one_whose_server_attaches_a_program(lab):
    """It does that as soon as there is a disk to have a look at."""
    disk = stable_backing(lab)
    number = max(cli.device_ids(), default=0) + 1
    opener = subprocess.Popen(["python3", "-c", OPENS, f"/dev/ublkb{number}", lab.tmp / "end"])
    lab.cleanup(opener.wait)
    lab.cleanup((lab.tmp / "end").touch)
    device = lab.add("loop", disk, n=number, track=lab.tmp / "track")
    assert device.info()["bpf"]["attached"]


@pytest.mark.parametrize("fstype", ["ext4", "tmpfs"])
def test_page_cache_that_a_worker_fills_is_charged_to_the_submitter(lab, fstype):
    """By buffered I/O, or by direct I/O to a file system that has nothing but a page cache."""
    group = Path("/sys/fs/cgroup/ublk-bpf-charge")
    control = Path("/sys/fs/cgroup/cgroup.subtree_control")
    if not {"io", "memory"} <= set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()):
        pytest.skip("this kernel has no io and memory controllers")
    control.write_text("+io +memory")
    group.mkdir()
    lab.cleanup(group.rmdir)
    if fstype == "ext4":
        file = lab.file(lab.ext4(64), 16 * MIB, sparse=False)
    else:
        file = lab.file(lab.mount("none", "tmpfs", "size=32m"), 16 * MIB)
    device = lab.add("loop", file)
    device.attach("loop", buffered=fstype == "ext4")
    sh("sysctl", "-qw", "vm.drop_caches=3")

    def charged():
        return dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["file"]

    assert int(charged()) == 0
    if fstype == "ext4":
        dd = ["dd", f"if={device.path}", "of=/dev/null", "bs=1M", "count=16", "iflag=direct", "status=none"]
    else:
        dd = ["dd", "if=/dev/zero", f"of={device.path}", "bs=1M", "count=16", "oflag=direct", "status=none"]
    subprocess.run(dd, preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())), timeout=cli.seconds(60), check=True)
    assert int(charged()) > 12 * MIB, "the pages of the file are charged to somebody else"
