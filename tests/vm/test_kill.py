# SPDX-License-Identifier: MIT
"""Who dies when (docs/design.md): servers, commands, files and devices that go away under I/O."""

import errno
import os
import signal
import threading

import cli
import pytest
from blockio import MIB, Load, Opened, aligned, assert_same, fio, fio_verify, pattern
from cli import wait_for
from lab import sh

pytestmark = pytest.mark.quick_tests(7)

ROUNDS = int(os.environ.get("UBLK_BPF_KILL_ROUNDS", "5"))


def kill_server(device):
    pid = device.server_pid()
    os.kill(pid, signal.SIGKILL)
    return pid


def quiesced(device):
    wait_for(f"{device.path} to be quiesced", lambda: device.state() == "quiesced")


class Background:
    """One blocking call in a thread, so that a test can see that it waits."""

    def __init__(self, function, *args):
        self.result, self.error = None, None
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function, args):
        try:
            self.result = function(*args)
        except BaseException as e:
            self.error = e

    def done(self):
        return not self._thread.is_alive()

    def join(self, timeout=30):
        self._thread.join(cli.seconds(timeout))
        assert self.done(), "the call hangs"
        if self.error:
            raise self.error
        return self.result


def test_redirected_io_survives_the_server_with_recovery(lab):
    device, disk = lab.loop_device(16, q=2, r=1)
    device.attach("loop")
    with Load(device.path, size="8m", io_size="1m", iodepth=16) as load:
        for _ in range(ROUNDS):
            rounds = load.rounds
            kill_server(device)
            quiesced(device)
            before = device.counters()["redirected"]
            wait_for("I/O to go on without a server",
                     lambda b=before: load.error or device.counters()["redirected"] > b + 50)
            wait_for("a round of I/O without a server", lambda r=rounds: load.error or load.rounds > r + 1, 120)
            load.check()
            cli.ok("recover", "-n", device.id)
            wait_for("the device to live", lambda: device.state() == "live")
            assert device.info()["bpf"]["attached"]
    counters = device.counters()
    assert counters["failed"] == 0 and counters["aborted"] == 0
    assert_same(device.path, disk, 16 * MIB)


@pytest.mark.parametrize("reissue", [0, 1])
def test_passed_io_waits_for_recovery(lab, reissue):
    device, disk = lab.loop_device(16, r=1, **({"i": 1} if reissue else {}))
    device.attach("passflush")
    for round_ in range(ROUNDS):
        kill_server(device)
        quiesced(device)
        with Opened(device.path) as f:
            f.write(0, pattern(0, 65536, seed=round_))
            flush = Background(f.flush)
            assert f.read(0, 65536) == pattern(0, 65536, seed=round_)
            assert not flush.done(), "a flush that nobody serves was completed"
            cli.ok("recover", "-n", device.id)
            flush.join()
    with Opened(disk) as f:
        assert f.read(0, 65536) == pattern(0, 65536, seed=ROUNDS - 1)


def test_mixed_io_survives_kill_and_recovery(lab):
    """Some requests the program serves, some the server, who dies again and again."""
    device, disk = lab.loop_device(16, q=2, r=1, i=1)
    device.attach("mixed")
    with Load(device.path, size="8m", io_size="1m", iodepth=16) as load:
        for _ in range(ROUNDS):
            rounds = load.rounds
            kill_server(device)
            quiesced(device)
            cli.ok("recover", "-n", device.id)
            wait_for("a round of I/O", lambda r=rounds: load.error or load.rounds > r, 120)
            load.check()
    assert_same(device.path, disk, 16 * MIB)


@pytest.mark.parametrize("name", ["loop", "mixed", "pass"])
def test_device_goes_away_with_its_server_without_recovery(lab, name):
    disk = lab.null_blk(16)
    for _ in range(ROUNDS):
        device = lab.add("loop", disk.path, q=2)
        device.attach(name)
        with Load(device.path, must_succeed=False, size="8m", io_size="1m", iodepth=16, verify_fatal=0,
                  ) as load:
            before = device.counters()
            wait_for("I/O", lambda b=before: device.counters()["redirected"] + device.counters()["passed"]
                     > b["redirected"] + b["passed"] + 20)
            kill_server(device)
            wait_for("the device to be gone or dead",
                     lambda: not os.path.exists(device.path) or device.state() == "dead")
            wait_for("the I/O to end", lambda: not load._thread.is_alive(), 120)
        if device.exists():
            device.delete()
        wait_for("the device to be gone", lambda: not os.path.exists(device.path))
        # nothing holds the backing any more
        with Opened(disk.path, flags=os.O_RDWR | os.O_EXCL) as f:
            f.read(0, 4096)


def test_fail_io_mode_fails_until_recovery(lab):
    device, _ = lab.loop_device(8, r=1, e=1)
    device.attach("loop")
    kill_server(device)
    wait_for("the device to fail I/O", lambda: device.state() == "fail_io")
    with Opened(device.path) as f, pytest.raises(OSError):
        f.read(0, 4096)
    cli.ok("recover", "-n", device.id)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


def test_detach_replace_and_delete_work_without_a_server(lab):
    device, _ = lab.loop_device(8, r=1)
    device.attach("loop")
    kill_server(device)
    quiesced(device)
    device.attach("subprog", replace=True)
    assert device.info()["bpf"]["program"] == "subprog"
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    device.detach()
    assert device.info()["bpf"]["attached"] is False
    device.attach("loop")
    device.delete()
    wait_for("the device to be gone", lambda: not os.path.exists(device.path))


@pytest.mark.full
def test_command_killed_while_it_attaches_leaves_the_device_well(lab):
    """Whatever the command had done by then, the next ones work."""
    import subprocess

    device, disk = lab.loop_device(8)
    for step in range(ROUNDS * 4):
        argv = [cli.COMMAND, "attach", "--dev", str(device.id), "--replace", cli.program("loop")]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            # from "not even executed" to "done", without a clock
            for _ in range(step * 20):
                os.sched_yield()
            process.kill()
        fio_verify(device.path, bs="4k", iodepth=4, size=MIB, io_size="64k")
        assert device.info()["bpf"]["attached"] in (True, False)
    device.attach("loop", replace=True)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    assert_same(device.path, disk, 8 * MIB)


def test_delete_under_io(lab):
    for name in ("loop", "mixed", "null"):
        device, _ = lab.loop_device(16, q=2)
        device.attach(name)
        with Load(device.path, must_succeed=False, size="8m", io_size="1m", verify_fatal=0) as load:
            wait_for("I/O", lambda: sum(device.counters()[k] for k in ("redirected", "passed", "dropped")) > 20)
            cli.ok("del", "-n", device.id, "--force")
            wait_for("the I/O to end", lambda: not load._thread.is_alive(), 120)
        assert not os.path.exists(device.path)


def test_truncated_backing_file_is_an_error_and_no_more(lab):
    file = lab.ext4_file(8)
    device = lab.add("loop", file)
    device.attach("loop")
    with Opened(device.path) as f:
        f.write(6 * MIB, pattern(6 * MIB, 4096))
        os.truncate(file, 4 * MIB)
        with pytest.raises(OSError) as caught:
            f.read(6 * MIB, 4096)
        assert caught.value.errno == errno.EIO
        f.write(MIB, pattern(MIB, 4096))
        assert f.read(MIB, 4096) == pattern(MIB, 4096)
        # a write there makes the file longer again, as on the file itself
        f.write(6 * MIB, pattern(6 * MIB, 4096))
        assert f.read(6 * MIB, 4096) == pattern(6 * MIB, 4096)
    assert device.state() == "live" and device.counters()["failed"] >= 1


@pytest.mark.parametrize("flags", [{}, {"no_inline": True}, {"buffered": True}], ids=["inline", "lane", "buffered"])
def test_read_that_fails_half_way_shows_only_zeroes(lab, flags):
    file = lab.file(lab.ext4(32), 8 * MIB, sparse=False)
    device = lab.add("loop", file)
    device.attach("loop", **flags)
    os.truncate(file, 4 * MIB)
    buf = aligned(b"\xa5" * 65536)
    with Opened(device.path) as f:
        with pytest.raises(OSError) as caught:
            os.preadv(f.fd, [buf], 4 * MIB - 32768)
    assert caught.value.errno == errno.EIO
    assert buf[:] == bytes(65536), "the submitter sees a part of the file, or what its memory held before"


def test_removed_backing_device_is_an_error_and_no_more(lab):
    disk = lab.null_blk(8)
    device = lab.add("loop", disk.path)
    device.attach("loop")
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
        disk.remove()
        for call in (lambda: f.read(0, 4096), lambda: f.write(0, bytes(4096))):
            with pytest.raises(OSError):
                call()
    fio(device.path, check=False, rw="randrw", bs="4k", iodepth=16, size=MIB)
    assert device.state() == "live"
    spare = lab.null_blk(8)
    device.attach("loop", file=spare.path, replace=True)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


def test_frozen_file_system_makes_writes_wait(lab):
    where = lab.ext4(64)
    file = lab.file(where, 8 * MIB, sparse=False)
    device = lab.add("loop", file)
    for mode in ({}, {"no_inline": True}, {"inline_files": True}):
        device.attach("loop", replace=True, **mode)
        sh("fsfreeze", "-f", where)
        try:
            with Opened(device.path) as f:
                write = Background(f.write, MIB, pattern(MIB, 4096))
                assert len(f.read(2 * MIB, 4096)) == 4096, "reads go on"
                assert not write.done(), "written to a frozen file system"
                sh("fsfreeze", "-u", where)
                write.join()
                assert f.read(MIB, 4096) == pattern(MIB, 4096)
        finally:
            sh("fsfreeze", "-u", where, check=False)


@pytest.mark.parametrize("flags", [{}, {"no_inline": True}], ids=["inline", "worker"])
def test_full_file_system_is_no_space_and_no_more(lab, flags):
    """It discards what is deleted: to find space ext4 waits for the work that does, which not every workqueue may."""
    where = lab.ext4(32, options="discard")
    lab.file(where, 8 * MIB, sparse=False)
    file = lab.file(where, 64 * MIB)
    device = lab.add("loop", file)
    device.attach("loop", **flags)
    for path in where.glob("disk*.img"):
        if str(path) != file:
            path.unlink()
    result = fio(device.path, check=False, rw="write", bs="1m", iodepth=4, size=64 * MIB)
    assert result is None or result["error"] == errno.ENOSPC
    assert device.counters()["failed"] >= 1 and device.state() == "live"
    with Opened(device.path) as f:
        assert len(f.read(0, MIB)) == MIB
