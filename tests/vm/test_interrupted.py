# SPDX-License-Identifier: MIT
"""
SIGTERM and SIGKILL at many moments of add and del, from before the command's first to after its last step, for each process
of the command's. Afterwards there is a device that is served and has its state, or nothing of it; and what a SIGKILL
of all its processes leaves, gc clears away. A command whose server alone is killed clears that away itself.
"""

import fcntl
import os
import random
import signal
import subprocess
import time

import cli
import leftovers
import pytest
from blockio import MIB, fio_verify
from cli import wait_for
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

pytestmark = pytest.mark.one_face
MOMENTS = int(os.environ.get("UBLK_BPF_MOMENTS", "8" if cli.FULL else "4"))
ID = 23


def start(*args, prefix=()):
    argv = [*prefix, cli.COMMAND, *map(str, args), "--json"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def add_args(file, *more):
    return ["add", "-t", "loop", "-f", file, "-n", ID, "-q", 2, *more]


def duration(file):
    """Of an add and a del."""
    times = [time.monotonic()]
    for args in add_args(file), ["del", "-n", ID]:
        cli.ok(*args)
        times.append(time.monotonic())
    return times[1] - times[0], times[2] - times[1]


def moments(length, seed):
    """Spread over the length and a bit more, not always the same ones."""
    rng = random.Random(f"{seed} {time.time()}")
    return [length * 1.2 * (i + rng.random()) / MOMENTS for i in range(MOMENTS)]


def daemons(starter):
    return leftovers.servers() - {starter.pid}


def signal_all(pids, what):
    for pid in pids:
        try:
            os.kill(pid, what)
        except ProcessLookupError:  # it was faster
            pass


def device_there():
    return next((d for d in cli.devices() if d["dev_id"] == ID), None)


def nobody_adds():
    """A server that adds has this lock until the device is kept or deleted."""
    with open(leftovers.STATE / "hold", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def settled():
    """All of it or nothing: a served device with its state, or no trace."""
    if not nobody_adds():
        return False
    device = device_there()
    state, processes = leftovers.state_files(), leftovers.processes()
    if device is None:
        return not state and not processes
    return (device["state"] == "live" and device["server"] and processes == {device["server"]["pid"]}
            and state == {f"{ID}.json"} and device["target"] == "loop")


def census():
    return device_there(), leftovers.state_files(), leftovers.processes()


def settle():
    try:
        wait_for("it to settle", settled, 15)
    except AssertionError as e:
        raise AssertionError(f"neither all nor nothing: {census()}") from e
    return device_there()


def check_words(starter, killed):
    """The command says one clear line or the device, unless it is the one that was killed."""
    out, err = starter.communicate(timeout=cli.seconds(30))
    if killed:
        return
    assert starter.returncode in (0, 1), (starter.returncode, out, err)
    if starter.returncode == 1:
        assert len(err.strip().splitlines()) == 1 and err.startswith("ublk-bpf: "), err


@pytest.fixture
def file(lab):
    path = lab.null_blk(4).path

    def nothing_left():
        if device_there():
            cli.ok("del", "-n", ID)

    lab.cleanup(nothing_left)
    return path


@pytest.mark.parametrize(
    "who,what",
    [("command", signal.SIGTERM), ("command", signal.SIGKILL), ("server", signal.SIGTERM)],
    ids=["SIGTERM-command", "SIGKILL-command", "SIGTERM-server"],
)
def test_add_is_done_or_undone(file, who, what):
    length, _ = duration(file)
    outcomes = set()
    for delay in moments(length, f"{who} {what}"):
        starter = start(*add_args(file))
        time.sleep(delay)
        signal_all([starter.pid] if who == "command" else daemons(starter), what)
        check_words(starter, who == "command")
        device = settle()
        outcomes.add(device is not None)
        if device:
            fio_verify(device["block"], bs="4k", iodepth=4, size=MIB)
            cli.ok("del", "-n", ID)
            assert settle() is None
    assert False in outcomes, "no signal came before the end"


def none_after_a_kill():
    """A server that was forked while the others were looked up is killed too."""
    left = leftovers.processes()
    signal_all(left, signal.SIGKILL)
    return not left


def test_add_that_is_killed_altogether_leaves_what_gc_clears(file):
    length, _ = duration(file)
    for delay in moments(length, "all"):
        starter = start(*add_args(file))
        time.sleep(delay)
        signal_all([starter.pid, *daemons(starter)], signal.SIGKILL)
        starter.communicate()
        wait_for("the processes to be gone", none_after_a_kill)
        # a device is dead only some time after its server
        wait_for("gc to clear what there is", lambda: cli.ok("gc") and settled(), 30)
        assert device_there() is None
        # and its id and file can be used again
    cli.ok(*add_args(file))
    cli.ok("del", "-n", ID)


DIED = "the server has died before the device was live"
STEPS = {
    "at once": lambda: True,
    "added": lambda: os.path.exists(f"/sys/class/ublk-char/ublkc{ID}"),
    "state": lambda: (leftovers.STATE / f"{ID}.json").exists(),
    "disk": lambda: os.path.exists(f"/sys/block/ublkb{ID}"),
}


def outcome_of(command):
    """Of an add whose server has been killed: a device, or one line. What else there is must be gone with the command."""
    out, err = command.communicate(timeout=cli.seconds(60))
    said = f"status {command.returncode}: {out}{err}"
    if command.returncode == 0:
        return cli.json.loads(out), None
    left = [what for what in (device_there(), leftovers.state_files(), leftovers.processes()) if what]
    assert not left, f"{said}, and left {left}"
    error = cli.json.loads(out)["error"]
    assert command.returncode == 1 and error["errno"] == "ECHILD" and error["message"].startswith(DIED), said
    assert err.strip() == f"ublk-bpf: {error['message']}", said
    return None, error["message"].removeprefix(DIED)


@pytest.mark.parametrize("more", [[], ["-r", 1]], ids=["plain", "recoverable"])
def test_add_whose_server_is_killed_is_done_or_undone(file, more):
    """Which of the two is a race; the next test has an outcome that is not."""
    for step, reached in STEPS.items():
        starter = start(*add_args(file, *more))
        (server,) = wait_for("the server", lambda s=starter: daemons(s))
        while not reached() and starter.poll() is None:
            pass
        time.sleep(0 if step == "added" else random.random() * 0.02)
        signal_all([server], signal.SIGKILL)
        device, cleared = outcome_of(starter)
        if device:
            assert device["dev_id"] == ID
            cli.ok("del", "-n", ID)
            assert settle() is None
        else:
            assert cleared in ("", "; what there was of it is deleted"), f"{step}: {cleared}"


@pytest.mark.parametrize("call,cleared", [("unshare", ""), ("renameat", "; what there was of it is deleted")])
def test_add_whose_server_dies_in_a_system_call_is_undone(file, call, cleared):
    """Before there is a device, and with its state half written."""
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL"]
    assert outcome_of(start(*add_args(file), prefix=strace)) == (None, cleared)


def test_add_of_several_whose_server_is_killed_leaves_none():
    starter = start("add", "-t", "null", "--size", "1M", "-n", ID, "--count", 8)
    (server,) = wait_for("the server", lambda: daemons(starter))
    wait_for("the second device", lambda: (leftovers.STATE / f"{ID + 1}.json").exists())
    signal_all([server], signal.SIGKILL)
    assert outcome_of(starter) == (None, "; what there was of it is deleted")


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_del_is_done_or_done_by_the_next(file, what):
    _, length = duration(file)
    for delay in moments(length, what):
        cli.ok(*add_args(file))
        command = start("del", "-n", ID)
        time.sleep(delay)
        signal_all([command.pid], what)
        command.communicate(timeout=cli.seconds(30))
        outcome = cli.run("del", "-n", ID, "--json")
        assert outcome.status == 0 or outcome.json["error"]["errno"] == "ENODEV", str(outcome)
        assert settle() is None
