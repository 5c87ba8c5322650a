# SPDX-License-Identifier: MIT
"""The command's own promises: JSON, one line of text, daemons, deletion, stale state."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import cli
import pytest
from blockio import MIB, fio_verify
from cli import wait_for
from test_badinput import FAILED, check_refusal

# about the command and its server, not about the face
pytestmark = pytest.mark.one_face

STATE = Path("/run/ublk-bpf")

DEVICE_KEYS = {
    "dev_id", "block", "char", "state", "target", "files", "nr_hw_queues", "queue_depth", "size_bytes",
    "block_size", "read_only", "recovery", "bpf_capable", "server", "bpf",
}
COUNTERS = {"nr_attach", "redirected", "passed", "dropped", "aborted", "failed", "sqes", "deferred"}


def test_add_prints_the_device_once_it_is_live(lab):
    disk = lab.null_blk(8)
    outcome = cli.run("add", "-t", "loop", "-f", disk.path, "-q", 2, "-d", 64)
    assert outcome.status == 0, str(outcome)
    assert len(outcome.out.strip().splitlines()) == 1
    words = outcome.out.split()
    assert words[:2] == ["dev", "id"] and "nr_hw_queues 2 queue_depth 64" in outcome.out
    dev_id = int(words[2].rstrip(":"))
    try:
        # live means that it can be used at once
        fio_verify(f"/dev/ublkb{dev_id}", bs="4k", iodepth=4, size=MIB)
    finally:
        cli.ok("del", "-n", dev_id)


@pytest.mark.face
def test_json_of_a_device(lab):
    disk = lab.null_blk(8)
    device = lab.add("loop", disk.path, q=2, d=32, block_size=4096, r=1, size=4 * MIB)
    info = device.info()
    assert DEVICE_KEYS <= set(info)
    assert info["state"] == "live" and info["target"] == "loop" and info["files"] == [disk.path]
    assert (info["nr_hw_queues"], info["queue_depth"], info["block_size"]) == (2, 32, 4096)
    assert info["size_bytes"] == 4 * MIB and info["read_only"] is False and info["recovery"] == "requeue"
    assert info["bpf_capable"] is True and info["bpf"]["attached"] is False
    assert COUNTERS <= set(info["bpf"]["counters"])
    assert os.path.exists(f"/proc/{info['server']['pid']}")
    device.attach("loop", {"offset": 0})
    bpf = device.info()["bpf"]
    assert bpf["attached"] is True and bpf["program"] == "loop" and bpf["files"] == [disk.path]


def test_list_text_names_each_device(lab):
    devices = [lab.add("null", size=MIB) for _ in range(3)]
    outcome = cli.run("list")
    assert outcome.status == 0
    for device in devices:
        assert str(device.id) in outcome.out
    assert [d["dev_id"] for d in cli.devices()] == sorted(d.id for d in devices)


def test_list_has_a_line_for_each_device(lab):
    files = [lab.file(lab.tmp, 4 * MIB) for _ in range(2)]
    devices = [lab.add("loop", file, name=f"n{i}", **({"r": 1} if i else {})) for i, file in enumerate(files)]
    header, *rows = cli.run("list").out.splitlines()
    assert header.split() == ["DEVICE", "NAME", "STATE", "SIZE", "TARGET", "PROGRAM", "SERVER", "FILES"]
    want = [[f"ublkb{d.id}", f"n{i}", "live", "4M", "loop", "-", str(d.server_pid()), files[i]] for i, d in enumerate(devices)]
    assert [row.split() for row in rows] == want
    # -v has what the line has no room for
    assert len(cli.run("list", "-v", "-n", "n0").out.splitlines()) > 2
    kublk = cli.run("list", "--format", "kublk").out
    assert kublk.startswith("dev id 0: ") and kublk == cli.run("list", "-v", "--format", "kublk").out


def test_delete_all(lab):
    for _ in range(3):
        lab.add("null", size=MIB)
    cli.ok("del", "-a")
    assert cli.devices() == []
    # nothing to delete is no error
    assert cli.run("del", "-a").status == 0


def test_delete_ends_the_server_and_removes_the_state(lab):
    device = lab.add("null", size=MIB)
    pid = device.server_pid()
    assert (STATE / f"{device.id}.json").exists()
    device.delete()
    wait_for("the server to end", lambda: not os.path.exists(f"/proc/{pid}"))
    assert not (STATE / f"{device.id}.json").exists()
    assert not os.path.exists(device.path)


def test_id_can_be_chosen_and_is_free_again(lab):
    for _ in range(2):
        device = lab.add("null", size=MIB, n=5)
        assert device.id == 5 and device.path == "/dev/ublkb5"
        device.delete()


def test_foreground_serves_until_it_is_told_to_stop(lab):
    argv = [cli.COMMAND, "add", "-t", "null", "--size", str(MIB), "--foreground", "--json"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    lab.cleanup(server.kill)
    device = cli.Device(json.loads(server.stdout.readline()))
    assert device.server_pid() == server.pid
    assert os.path.exists(device.path)
    server.send_signal(signal.SIGTERM)
    assert server.wait(cli.seconds(30)) == 0
    wait_for("the device to be gone", lambda: not os.path.exists(device.path))
    assert cli.devices() == []


def test_daemon_holds_on_to_nothing_of_its_parents(lab):
    device = lab.add("null", size=MIB)
    pid = device.server_pid()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    status = Path(f"/proc/{pid}/status").read_text()
    assert "PPid:\t1\n" in status, "it is still the child of a command that has ended"
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_nobody_elses(lab, closed):
    outcome = cli.run("add", "-t", "null", "-n", 60, "--size", MIB, prefix=["sh", "-c", f'exec "$@" {closed}', "sh"])
    assert outcome.status == 0, str(outcome)
    device = cli.Device(cli.ok("list", "-n", 60)["devices"][0])
    lab.cleanup(device.delete)
    assert device.state() == "live"
    for fd in (0, 1, 2):
        wait_for("a daemon's descriptors", lambda n=fd: os.readlink(f"/proc/{device.server_pid()}/fd/{n}") == "/dev/null", 5)


def test_private_dev_is_named_at_once(lab):
    """As in a container: the driver's node is not there."""
    script = 'c=$(stat -c "%Hr %Lr" /dev/ublk-control) && mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/zero c 1 5 && {} exec "$@"'
    for mknod, words in (("mknod /dev/ublk-control c $c &&", "ublkc.*private"), ("", "ublk-control.*private")):
        begin = time.monotonic()
        outcome = cli.run("add", "-t", "null", "--size", MIB, "--json", prefix=["unshare", "-m", "sh", "-c", script.format(mknod), "sh"])
        check_refusal(outcome, words, FAILED, "ENOENT")
        assert time.monotonic() - begin < cli.seconds(4), "it waits for what cannot come"


def test_recover_brings_a_server_back(lab):
    device, _ = lab.loop_device(8, r=1)
    old = device.server_pid()
    os.kill(old, signal.SIGKILL)
    wait_for("the device to be quiesced", lambda: device.state() == "quiesced")
    assert device.info()["server"] is None
    cli.ok("recover", "-n", device.id)
    assert device.state() == "live" and device.server_pid() != old
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


def test_stale_state_is_no_device(lab):
    STATE.mkdir(exist_ok=True)
    stale = STATE / "42.json"
    stale.write_text("{ this is no JSON")
    try:
        assert cli.devices() == []
        device = lab.add("null", size=MIB, n=42)
        assert device.info()["state"] == "live"
    finally:
        stale.unlink(missing_ok=True)


@pytest.mark.face
def test_lost_state_is_no_lost_device(lab):
    device, _ = lab.loop_device(8)
    device.attach("loop")
    (STATE / f"{device.id}.json").unlink()
    info = device.info()
    assert info["state"] == "live" and info["bpf"]["attached"] is True
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    device.detach()


@pytest.mark.face
def test_probe_names_the_face(face):
    probe = cli.probe()
    assert probe["kernel"] == os.uname().release
    assert probe["ublk_module"] is True
    names = {f["name"]: f for f in probe["features"]}
    assert names["bpf"]["available"] is True and names["bpf_completion"]["available"] is True
    for feature in probe["features"]:
        assert {"name", "available"} <= set(feature)
        if not feature["available"]:
            assert feature["needs"] or feature["how"], f"how to get {feature['name']} is not said"
    text = cli.run("probe")
    assert text.status == 0 and probe["kernel"] in text.out


def test_help_is_no_error():
    for args in (["--help"], ["attach", "--help"], ["add", "--help"]):
        outcome = cli.run(*args)
        assert outcome.status == 0 and "ublk-bpf" in outcome.out, str(outcome)
