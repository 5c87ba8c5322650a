# SPDX-License-Identifier: MIT
"""Who is ended and who is not: a server's pid, a device in use, a server that does not answer, the other devices of a server."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import cli
import pytest
from blockio import MIB, Opened, fio_verify, libc, pattern
from cli import wait_for
from lab import sh, sysfs
from leftovers import STATE, nothing_is_left  # noqa: F401 (a fixture)
from test_kill import Background, kill_server, quiesced
from test_lifecycle import refused
from test_retire import frozen, start

# about the command and its server, not about the face
pytestmark = pytest.mark.one_face

CLONE3 = 435


def process_with_pid(lab, pid):
    """A process of no concern to anybody that has just this pid."""
    tids = (ctypes.c_int * 1)(pid)
    args = ctypes.create_string_buffer(
        struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(tids), 1, 0))
    # the child shares nothing and becomes another program at once
    got = libc.syscall(CLONE3, args, len(args.raw) - 1)
    if got == 0:
        os.execv("/usr/bin/sleep", ["sleep", "3600"])
    assert got == pid, os.strerror(ctypes.get_errno())

    def end():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    lab.cleanup(end)
    wait_for("the program", lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")


def lives(pid):
    assert "\nState:\tS" in Path(f"/proc/{pid}/status").read_text(), "somebody else's process was hit"
    done, status = os.waitpid(pid, os.WNOHANG)
    assert done == 0, f"somebody else's process has ended: {status}"


def hung_reader(device):
    """A process with a read that nobody completes."""
    reader = subprocess.Popen(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                              stderr=subprocess.PIPE, text=True)
    wait_for("the request", lambda: sysfs(device.path, "inflight").split()[0] != "0" or device.state() != "live")
    return reader


def within(seconds, what, *args, **kwargs):
    start = time.monotonic()
    result = what(*args, **kwargs)
    took = time.monotonic() - start
    assert took < cli.seconds(seconds), f"took {took:.1f} s"
    return result


@pytest.mark.parametrize("recoverable", [True, False], ids=["recoverable", "plain"])
def test_process_that_has_got_the_servers_pid_is_left_alone(lab, recoverable):
    """The driver goes on naming the pid of a server that has died."""
    device, _ = lab.loop_device(8, **({"r": 1} if recoverable else {}))
    pid = kill_server(device)
    wait_for("the server to be missed", lambda: device.state() in ("quiesced", "dead"))
    wait_for("its pid to be free", lambda: not Path(f"/proc/{pid}").exists())
    process_with_pid(lab, pid)
    assert device.info()["server"] is None
    assert str(pid) not in cli.run("list", "-n", device.id).out
    assert cli.ok("info", "-n", device.id)["server"] is None
    if recoverable:
        reader = hung_reader(device)
        assert "no thread of ours" in refused("set-affinity", "-n", device.id, "--cpuset", "0")["message"]
        assert within(5, cli.ok, "quiesce", "-n", device.id)["server"] is None
        assert [(o["dev_id"], o["cleared"]) for o in cli.ok("gc")["orphans"]] == [(device.id, False)]
        within(10, cli.ok, "del", "-n", device.id, "--force", "--patience", 0)
        reader.communicate(timeout=cli.seconds(30))
    else:
        cli.ok("stop", "-n", device.id)
        within(10, device.delete)
    lives(pid)
    assert not device.exists()


def test_device_in_use_is_kept_and_its_users_are_named(lab):
    device, _ = lab.loop_device(32)
    other = lab.add("null", size="1M")
    sh("mkfs.ext4", "-q", device.path)
    where = lab.tmp / "my disk"
    where.mkdir()
    sh("mount", device.path, where)
    lab.cleanup(lab.umount, where)
    (where / "file").write_bytes(pattern(0, 65536))
    for command in ("del", "stop"):
        error = within(5, refused, command, "-n", device.id)
        assert error["errno"] == "EBUSY" and f"mounted at {where}" in error["message"] and "--force" in error["hint"]
    # the others of all are deleted
    outcome = within(10, cli.run, "del", "-a", "--json")
    assert outcome.status == 1 and outcome.json["deleted"] == [other.id], str(outcome)
    (failed,) = outcome.json["failed"]
    assert failed["dev_id"] == device.id and failed["error"]["errno"] == "EBUSY"
    assert device.state() == "live" and (where / "file").read_bytes() == pattern(0, 65536)
    sh("umount", where)
    sh("modprobe", "loop", check=False)
    looped = sh("losetup", "--find", "--show", device.path).stdout.strip()
    try:
        assert f"behind {Path(looped).name}" in refused("del", "-n", device.id)["message"]
    finally:
        sh("losetup", "-d", looped)
    with Opened(device.path):
        assert f"({os.getpid()})" in refused("del", "-n", device.id)["message"]
        cli.ok("del", "-n", device.id, "--force")


@pytest.mark.face
def test_device_below_another_ones_program_is_kept_and_that_one_is_named(lab):
    lower, _ = lab.loop_device(8)
    upper = lab.add("null", size="8M")
    upper.attach("loop", file=lower.path)
    for command in ("del", "stop"):
        error = within(5, refused, command, "-n", lower.id)
        assert error["errno"] == "EBUSY" and f"a file of the program of ublkb{upper.id}" in error["message"], error
    upper.attach("loop", file=lab.null_blk(8).path, replace=True)
    cli.ok("del", "-n", lower.id)


@pytest.mark.face
def test_of_all_devices_one_that_only_another_one_has_goes_too(lab):
    lower, _ = lab.loop_device(8)
    upper = lab.add("null", size="8M")
    upper.attach("loop", file=lower.path)
    assert lower.id < upper.id
    assert sorted(cli.ok("del", "-a")["deleted"]) == [lower.id, upper.id]


def test_mounts_of_other_processes_count(lab):
    device, _ = lab.loop_device(32)
    sh("mkfs.ext4", "-q", device.path)
    holder = subprocess.Popen(["unshare", "-m", "sh", "-c", f"mount {device.path} /mnt && exec sleep 3600"])
    lab.cleanup(holder.wait)
    lab.cleanup(holder.kill)
    wait_for("the mount", lambda: device.path in Path(f"/proc/{holder.pid}/mounts").read_text())
    message = refused("del", "-n", device.id)["message"]
    assert f"mounted at /mnt in the mounts of sleep ({holder.pid})" in message


def test_one_who_only_has_a_look_is_waited_for(lab):
    """As udev and blkid do after an add."""
    device, _ = lab.loop_device(8)
    looks = subprocess.Popen(["sleep", "1"], stdin=open(device.path, "rb"))
    lab.cleanup(looks.wait)
    assert cli.ok("del", "-n", device.id)["deleted"] == [device.id]


def status(pid, what):
    return re.search(rf"^{what}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1)


def has_looked(server):
    """It has read the signal, and looked more than once whether its devices are free."""
    wait_for("it to have read the signal", lambda: int(status(server, "ShdPnd"), 16) == 0)
    before = int(status(server, "voluntary_ctxt_switches"))
    wait_for("it to have looked", lambda: int(status(server, "voluntary_ctxt_switches")) > before + 4)


def test_server_that_is_told_to_end_leaves_what_is_in_use(lab):
    device, disk = lab.loop_device(32)
    free = lab.add("null", size="1M")
    sh("mkfs.ext4", "-q", device.path)
    where = lab.mount(device.path, "ext4")
    server = device.server_pid()
    for pid in (server, free.server_pid()):
        os.kill(pid, signal.SIGTERM)
    wait_for("the device that nobody has to be gone", lambda: not free.exists())
    has_looked(server)
    (where / "file").write_bytes(pattern(0, 65536))
    sh("umount", where)
    wait_for("the other one to be gone, once it is free", lambda: not device.exists())
    assert (lab.mount(disk, "ext4") / "file").read_bytes() == pattern(0, 65536), "it went while it was mounted"


def test_a_servers_words_are_in_the_journal_with_its_device(lab):
    where = Path("/run/systemd/journal/socket")
    if where.exists():
        pytest.fail("the guest has a journal")
    where.parent.mkdir(parents=True, exist_ok=True)
    lab.cleanup(where.unlink)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(where))
        journal.settimeout(cli.seconds(30))
        device = lab.add("null", size="1M", name="vm1")
        with Opened(device.path):
            os.kill(device.server_pid(), signal.SIGTERM)
            entry = dict(line.split("=", 1) for line in journal.recv(4096).decode().splitlines())
    assert "in use" in entry["MESSAGE"] and entry["UBLK_BPF_NAME"] == "vm1" and entry["ERRNO"] == "16", entry
    assert entry["UBLK_BPF_DEVICE"] == Path(device.path).name


def test_mounted_device_outlives_sigterm(lab):
    device, _ = lab.loop_device(32)
    sh("mkfs.ext4", "-q", device.path)
    where = lab.mount(device.path, "ext4")
    server = device.server_pid()
    os.kill(server, signal.SIGTERM)
    has_looked(server)
    (where / "file").write_bytes(pattern(0, 65536))
    sh("sync", "-f", where)
    assert device.state() == "live"
    # twice is meant
    os.kill(server, signal.SIGTERM)
    wait_for("the server to end", lambda: not Path(f"/proc/{server}").exists())
    assert not device.exists()
    sh("umount", where)


class ProcessOne:
    """A shell that is process 1 of a PID namespace, and does what it is told."""

    def __init__(self, lab):
        self.shell = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c",
                                       'while read -r line; do eval "$line"; echo done; done'],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lab.cleanup(self.shell.wait)
        lab.cleanup(self.shell.kill)

    def tell(self, line):
        self.shell.stdin.write(f"{line}\n")
        self.shell.stdin.flush()
        while (said := self.shell.stdout.readline()) != "done\n":
            assert said, "the shell has ended"


def test_process_1_may_repeat_itself(lab):
    """systemd sends a second SIGTERM to what is left of a unit."""
    one = ProcessOne(lab)
    one.tell(f"{cli.COMMAND} add -t null --size 1M")
    (device,) = (lab.adopt(cli.Device(info)) for info in cli.devices())
    server = device.server_pid()
    there = Path(f"/proc/{server}/status").read_text().split("NSpid:")[1].split()[1]
    one.tell(f"exec 5<>{device.path}")
    for _ in range(3):
        one.tell(f"kill -TERM {there}")
        has_looked(server)
    assert device.state() == "live" and device.server_pid() == server
    # whoever else does insists
    os.kill(server, signal.SIGTERM)
    wait_for("the server to end", lambda: not Path(f"/proc/{server}").exists())
    assert not device.exists()


def test_end_of_a_login_session_pulls_no_disk_in_use(lab):
    """It sends SIGTERM, and then SIGHUP."""
    device = lab.add("null", size="1M")
    server = device.server_pid()
    with Opened(device.path):
        for number in signal.SIGTERM, signal.SIGHUP:
            os.kill(server, number)
        has_looked(server)
        assert device.state() == "live" and device.server_pid() == server
    wait_for("it to be gone once it is free", lambda: not device.exists())


def test_last_step_of_a_shutdown_leaves_servers_alone(lab):
    """As systemd-shutdown knows them: what it could not unmount may be on their disks."""
    first = lab.add("null", size="1M", r=1)
    for device in (lab.add("null", size="1M"), first):
        assert Path(f"/proc/{device.server_pid()}/cmdline").read_bytes().startswith(b"@")
    cli.ok("takeover", "-n", first.id)
    assert Path(f"/proc/{first.server_pid()}/cmdline").read_bytes().startswith(b"@")


def test_server_with_recovery_leaves_its_devices_to_a_successor(lab):
    device, _ = lab.loop_device(32, r=1)
    sh("mkfs.ext4", "-q", device.path)
    where = lab.mount(device.path, "ext4")
    (where / "file").write_bytes(pattern(0, 65536))
    server = device.server_pid()
    os.kill(server, signal.SIGTERM)
    wait_for("the server to end", lambda: not Path(f"/proc/{server}").exists())
    assert device.state() == "quiesced"
    (orphan,) = cli.ok("gc", "--all")["orphans"]
    assert not orphan["cleared"] and f"mounted at {where}" in orphan["why"]
    write = Background(lambda: sh("sync", "-f", where))
    cli.ok("recover", "-n", device.id)
    write.join()
    assert (where / "file").read_bytes() == pattern(0, 65536)
    sh("umount", where)


@pytest.fixture
def stopped(lab):
    """Two devices of one server that answers nothing."""
    added = cli.ok("add", "-t", "null", "--size", "1M", "--count", 2)["devices"]
    devices = [cli.Device(d) for d in added]
    server = added[0]["server"]["pid"]

    def go_on():
        if Path(f"/proc/{server}").exists():
            os.kill(server, signal.SIGCONT)
        for device in devices:
            cli.run("del", "-n", device.id, "--force")

    lab.cleanup(go_on)
    os.kill(server, signal.SIGSTOP)
    return devices, server


def test_server_that_does_not_answer_is_killed_only_by_force_if_it_has_others(stopped):
    (one, other), server = stopped
    error = within(15, refused, "del", "-n", one.id, "--patience", 1)
    assert error["errno"] == "EBUSY" and f"ublkb{other.id}" in error["message"] and "--force" in error["hint"]
    assert Path(f"/proc/{server}").exists() and other.state() == "live"
    reader = hung_reader(other)
    outcome = within(20, cli.run, "stop", "-n", other.id, "--force", "--patience", 1)
    assert outcome.status == 0, str(outcome)
    reader.communicate(timeout=cli.seconds(30))
    wait_for("the server to be gone", lambda: not Path(f"/proc/{server}").exists())


def test_others_are_named_before_their_server_is_killed(stopped):
    (one, other), server = stopped
    reader = hung_reader(one)
    outcome = within(20, cli.run, "del", "-n", one.id, "--force", "--patience", 2, "--json")
    assert outcome.status == 0 and outcome.json["deleted"] == [one.id], str(outcome)
    (warning,) = outcome.err.splitlines()
    assert "warning" in warning and f"process {server}" in warning and f"ublkb{other.id}" in warning
    reader.communicate(timeout=cli.seconds(30))


def test_command_has_a_deadline_and_list_waits_for_nobody(stopped):
    (one, other), server = stopped
    reader = hung_reader(one)
    outcome = within(15, cli.run, "stop", "-n", one.id, "--force", "--patience", 600, "--deadline", 2, "--json")
    error = outcome.json["error"]
    assert error["errno"] == "ETIMEDOUT" and "I/O in flight" in error["message"], error
    # 6.12 takes a disk's attributes away before it waits for its I/O
    counted = re.search(r"requests in flight: (\d+)", error["message"])
    assert counted is None or counted[1] == "1", error
    assert "2 s" in error["message"] and "gc" in error["hint"]
    listed = {d["dev_id"]: d for d in within(10, cli.ok, "list")["devices"]}
    assert "another command" in listed[one.id]["stuck"]
    assert listed[other.id]["stuck"] is None and listed[other.id]["size_bytes"] == MIB
    assert within(10, cli.ok, "info", "-n", one.id)["dev_id"] == one.id
    os.kill(server, signal.SIGCONT)
    reader.communicate(timeout=cli.seconds(30))
    wait_for("the stop to be done", lambda: one.state() == "dead")
    assert other.state() == "live" and one.info()["stuck"] is None
    wait_for("gc to clear it", lambda: cli.ok("gc") and not one.exists())


@pytest.fixture
def waiting(lab):
    """A device with a write that its server has begun and cannot end, as the file is frozen; and what thaws that."""
    where = lab.ext4(64)
    device = lab.add("loop", lab.file(where, 8 * MIB, sparse=False), r=1, i=1)
    with frozen(where), Opened(device.path) as f:
        write = Background(f.write, MIB, pattern(MIB, 4096))
        wait_for("the write to be the server's", lambda: sysfs(device.path, "inflight").split()[1] != "0")

        def thaw():
            sh("fsfreeze", "-u", where)
            yield
            write.join()
            assert f.read(MIB, 4096) == pattern(MIB, 4096)

        yield device, contextlib.contextmanager(thaw)


# Full: under load the stock driver of 7.2 was once seen to warn when the ring of the server before ends (ublk_ch_uring_cmd()).
@pytest.mark.full
@pytest.mark.parametrize("command", ["takeover", "recover"])
def test_next_server_waits_no_longer_than_its_deadline_for_the_one_before(waiting, command):
    device, thaw = waiting
    server = device.server_pid()
    if command == "recover":
        os.kill(server, signal.SIGKILL)
    error = within(10, refused, command, "-n", device.id, "--deadline", 2)
    assert error["errno"] == "ETIMEDOUT" and f"/dev/ublkc{device.id} for 2 s" in error["message"], error
    assert f"({server})" in error["message"] and f"{command} -n {device.id} again" in error["hint"], error
    with thaw():
        cli.ok("takeover", "-n", device.id)


@pytest.mark.full
def test_command_waits_no_longer_than_its_deadline_for_another_one(waiting):
    device, thaw = waiting
    first = start("takeover", "-n", device.id)
    number = (STATE / "hold").stat().st_ino
    wait_for("it to have begun", lambda: re.search(rf"OFDLCK .*:{number} {device.id} {device.id}$", Path("/proc/locks").read_text(), re.M))
    error = within(10, refused, "takeover", "-n", device.id, "--deadline", 2)
    assert error["errno"] == "EBUSY" and "another command" in error["message"], error
    with thaw():
        out, err = first.communicate(timeout=cli.seconds(60))
        assert first.returncode == 0, err


@pytest.mark.face
@pytest.mark.parametrize("command", ["stop", "del"])
def test_no_server_is_killed_for_io_of_a_program(lab, command):
    """It has another device, and nothing to do with what the program waits for."""
    where = lab.ext4(64)
    files = lab.file(where, 8 * MIB, sparse=False), lab.null_blk(8).path
    added = cli.ok("add", "-t", "loop", "--write-back", "-f", files[0], "-f", files[1])["devices"]
    device, other = (lab.adopt(cli.Device(d)) for d in added)
    server = other.server_pid()
    device.attach("loop")
    with frozen(where), Opened(device.path) as f:
        write = Background(f.write, MIB, pattern(MIB, 4096))
        wait_for("the write to wait", lambda: device.counters()["deferred"] >= 1)
        outcome = within(20, cli.run, command, "-n", device.id, "--force", "--patience", 1, "--deadline", 4, "--json")
        assert Path(f"/proc/{server}").exists() and other.state() == "live", str(outcome)
        error = outcome.json["error"]
        assert error["errno"] == "ETIMEDOUT" and "it is I/O of its program" in error["message"], error
        assert len(outcome.err.splitlines()) == 1, outcome.err
        fio_verify(other.path, bs="4k", iodepth=4, size=MIB)
        sh("fsfreeze", "-u", where)
        write.join()
    wait_for("it to be stopped", lambda: device.state() == "dead")
    wait_for("gc to clear it", lambda: cli.ok("gc") and not device.exists())
    assert other.state() == "live" and other.server_pid() == server


@pytest.mark.face
def test_takeover_does_not_wait_for_io_of_a_program(lab):
    where = lab.ext4(64)
    device = lab.add("loop", lab.file(where, 8 * MIB, sparse=False), r=1)
    device.attach("loop")
    server = device.server_pid()
    with frozen(where), Opened(device.path) as f:
        write = Background(f.write, MIB, pattern(MIB, 4096))
        wait_for("the write to wait", lambda: device.counters()["deferred"] >= 1)
        within(10, cli.ok, "takeover", "-n", device.id, "--deadline", 2)
        assert not write.done() and device.server_pid() != server
        sh("fsfreeze", "-u", where)
        write.join()
        assert f.read(MIB, 4096) == pattern(MIB, 4096)


@pytest.mark.face
def test_server_that_does_not_answer_is_killed_although_there_is_a_program(stopped):
    (one, other), server = stopped
    one.attach("pass")
    reader = hung_reader(one)
    outcome = within(20, cli.run, "del", "-n", one.id, "--force", "--patience", 2, "--json")
    assert outcome.status == 0 and outcome.json["deleted"] == [one.id], str(outcome)
    assert f"process {server}" in outcome.err and f"ublkb{other.id}" in outcome.err
    reader.communicate(timeout=cli.seconds(30))
