# SPDX-License-Identifier: MIT
"""Commands at once on one device: each does its work or says in one line why not, and what is left is one or the other."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import cli
import leftovers
import pytest
from blockio import MIB, fio_verify
from cli import wait_for
from leftovers import nothing_is_left  # noqa: F401 (a fixture)
from test_kill import kill_server

ROUNDS = 5


def at_once(*commands):
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda args: cli.run(*args, "--json"), commands))


def device_state(dev_id):
    return next((d["state"] for d in cli.devices() if d["dev_id"] == dev_id), None)


def judge(outcomes, *allowed):
    """How many succeeded; each of the others says one of these errors, in one line."""
    for outcome in outcomes:
        if outcome.status == 0:
            continue
        assert outcome.status == 1, str(outcome)
        lines = outcome.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("ublk-bpf: "), str(outcome)
        assert outcome.json["error"]["errno"] in allowed, str(outcome)
    return sum(o.status == 0 for o in outcomes)


def gone(device):
    wait_for(f"{device.path} to be gone", lambda: not os.path.exists(device.path))


def use(device):
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


@pytest.mark.one_face
def test_one_of_many_gets_the_id(lab):
    disk = lab.null_blk(4).path
    for _ in range(ROUNDS):
        outcomes = at_once(*[["add", "-t", "loop", "-f", disk, "-n", 9]] * 4)
        # the id is taken, or the file is already the winner's
        assert judge(outcomes, "EEXIST", "EBUSY") == 1
        device = cli.Device(next(o.json for o in outcomes if o.status == 0))
        lab.cleanup(lambda d=device: d.exists() and d.delete())
        assert device.state() == "live" and leftovers.state_files() == {"9.json"}
        wait_for("the others to end", lambda d=device: leftovers.processes() == {d.server_pid()})
        use(device)
        device.delete()
        gone(device)


def test_each_of_many_gets_an_id_of_its_own(lab):
    outcomes = at_once(*[["add", "-t", "null", "--size", "1M"]] * 6)
    devices = [cli.Device(o.json) for o in outcomes if o.status == 0]
    for device in devices:
        lab.cleanup(lambda d=device: d.exists() and d.delete())
    assert judge(outcomes) == 6 and len({d.id for d in devices}) == 6
    assert judge(at_once(*[["del", "-n", d.id] for d in devices])) == 6


@pytest.mark.one_face
def test_one_of_two_attaches(lab):
    device, _ = lab.loop_device(4)
    for _ in range(ROUNDS):
        names = ["loop", "subprog", "pass"]
        outcomes = at_once(*[["attach", "-n", device.id, cli.program(n)] for n in names])
        assert judge(outcomes, "EBUSY") == 1
        winner = next(n for n, o in zip(names, outcomes) if o.status == 0)
        assert device.info()["bpf"]["object"] == os.path.realpath(cli.program(winner))
        use(device)
        device.detach()


def test_of_two_that_replace_the_last_is_the_one_that_is_listed(lab):
    device, _ = lab.loop_device(4)
    for _ in range(ROUNDS):
        outcomes = at_once(*[["attach", "-n", device.id, "--replace", cli.program(n)] for n in ("loop", "subprog")])
        assert judge(outcomes) == 2
        bpf = device.info()["bpf"]
        assert bpf["attached"] and bpf["program"] in ("loop", "subprog"), f"nobody knows what is attached: {bpf}"
        use(device)


def test_attach_against_detach(lab):
    device, _ = lab.loop_device(4)
    for _ in range(ROUNDS):
        device.attach("loop", replace=True)
        attach, detach = at_once(["attach", "-n", device.id, "--replace", cli.program("subprog")],
                                 ["detach", "-n", device.id])
        assert judge([attach, detach]) == 2
        bpf = device.info()["bpf"]
        assert bpf["program"] == ("subprog" if bpf["attached"] else None), bpf
        use(device)


@pytest.mark.parametrize("dead", [False, True], ids=["live", "without-server"])
def test_deletion_by_many(lab, dead):
    for _ in range(ROUNDS):
        device, _ = lab.loop_device(4, r=1)
        if dead:
            kill_server(device)
        assert judge(at_once(*[["del", "-n", device.id]] * 3), "ENODEV") >= 1
        gone(device)
        assert device.id not in [d["dev_id"] for d in cli.devices()]
        assert f"{device.id}.json" not in leftovers.state_files()


@pytest.mark.one_face
def test_one_of_two_recovers(lab):
    device, _ = lab.loop_device(4, r=1)
    for _ in range(ROUNDS):
        kill_server(device)
        assert judge(at_once(*[["recover", "-n", device.id]] * 3), "EBUSY") == 1
        assert device.state() == "live"
        wait_for("the others to end", lambda: leftovers.processes() == {device.server_pid()})
        use(device)


def test_recovery_against_deletion(lab):
    for _ in range(ROUNDS):
        device, _ = lab.loop_device(4, r=1)
        kill_server(device)
        recover, delete = at_once(["recover", "-n", device.id], ["del", "-n", device.id])
        judge([recover], "ENODEV", "EBUSY", "EINVAL", "ENOENT")
        assert delete.status == 0, str(delete)
        gone(device)
        wait_for("the servers to end", lambda: not leftovers.processes())
        assert f"{device.id}.json" not in leftovers.state_files()


def test_attach_against_deletion(lab):
    for _ in range(ROUNDS):
        device, _ = lab.loop_device(4)
        attach, delete = at_once(["attach", "-n", device.id, cli.program("loop")], ["del", "-n", device.id])
        judge([attach], "ENODEV")
        assert delete.status == 0, str(delete)
        gone(device)
        assert f"{device.id}.json" not in leftovers.state_files(), "the state of a device that is gone came back"


def test_addition_against_deletion_and_list(lab):
    for _ in range(ROUNDS):
        add, *others = at_once(["add", "-t", "null", "-n", 9, "--size", "1M"], ["del", "-n", 9], ["del", "-n", 9], ["list"], ["list"])
        judge([add], "ENODEV", "ENOENT", "EINVAL", "EBUSY")
        judge(others[:2], "ENODEV")
        assert judge(others[2:]) == 2
        again = cli.run("del", "-n", 9, "--json")
        judge([again], "ENODEV")
        wait_for("nothing to be left", lambda: not leftovers.processes() and not leftovers.state_files())
        assert cli.devices() == []


def test_device_is_deleted_when_its_server_is_about_to_start_it(lab):
    """Its commands are canceled and none can take a request: the driver must not start it, the partition scan would be the first to fall."""
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=renameat", "-e", "inject=renameat:delay_exit=3s"]
    argv = [*strace, cli.COMMAND, "add", "-t", "null", "-n", "9", "--size", "1M", "--json"]
    add = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("the state, which is written last", lambda: "9.json" in leftovers.state_files())
        assert device_state(9) == "dead"
        cli.ok("del", "-n", 9)
        out, err = add.communicate(timeout=cli.seconds(60))
    finally:
        for pid in leftovers.processes():
            os.kill(pid, signal.SIGKILL)
        add.kill()
        cli.run("del", "-n", 9)
    assert add.returncode == 1 and err.startswith("ublk-bpf: ") and len(err.strip().splitlines()) == 1, out + err
    assert device_state(9) is None and not leftovers.state_files()
