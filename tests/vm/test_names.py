# SPDX-License-Identifier: MIT
"""Names of devices: every command finds a device by its name, path or file, and udev makes a link of the name."""

import os
import subprocess
from pathlib import Path

import cli
import pytest
from blockio import MIB
from cli import wait_for
from lab import sh

# about the command, not about the face
pytestmark = pytest.mark.one_face

STATE = Path("/run/ublk-bpf")
RULES = cli.TREE / "packaging/65-ublk-bpf-name.rules"
BY_ID = Path("/dev/disk/by-id")


def refused(*args):
    outcome = cli.run(*args, "--json")
    assert outcome.status == 1, str(outcome)
    assert len(outcome.err.strip().splitlines()) == 1, str(outcome)
    return outcome.json["error"]


def test_a_device_is_found_by_name_path_and_file(lab):
    file = lab.file(lab.tmp, 4 * MIB)
    device = lab.add("loop", file, name="vm1")
    other = lab.add("null", size=MIB)
    assert device.info()["name"] == "vm1" and other.info()["name"] is None
    link = lab.tmp / "link"
    link.symlink_to(device.path)
    hard = lab.tmp / "hard"
    os.link(file, hard)
    for text in ("vm1", device.path, f"/dev/ublkc{device.id}", f"ublkb{device.id}", link, file, hard):
        assert cli.ok("info", "-n", text)["dev_id"] == device.id, text
    assert [d["dev_id"] for d in cli.ok("list", "--dev", "vm1")["devices"]] == [device.id]
    for text in ("vm2", lab.tmp, "/dev/null", lab.tmp / "nothing"):
        assert refused("info", "-n", text)["errno"] == "ENODEV", text
    # a name goes before a file that is called the same
    named = lab.add("null", size=MIB, name=Path(file).name)
    done = subprocess.run([cli.COMMAND, "info", "-n", Path(file).name, "--json"], cwd=lab.tmp, capture_output=True, check=True)
    assert f'"dev_id":{named.id},'.encode() in done.stdout
    assert cli.ok("del", "-n", "vm1")["deleted"] == [device.id]
    assert not (STATE / f"{device.id}.udev").exists()


def test_a_file_of_two_devices_tells_none(lab):
    file = lab.file(lab.tmp, 4 * MIB)
    first = lab.add("loop", file, size=MIB)
    second = lab.add("loop", file, offset=2 * MIB)
    error = refused("del", "-n", file)
    assert error["errno"] == "ENOTUNIQ" and f"ublkb{first.id}" in error["message"] and f"ublkb{second.id}" in error["message"]
    assert first.exists() and second.exists()


def test_show_prints_the_path_alone(lab):
    outcome = cli.run("add", "-t", "null", "--size", "1M", "--name", "shown", "--show")
    assert outcome.status == 0, str(outcome)
    dev_id = cli.ok("info", "-n", "shown")["dev_id"]
    lab.cleanup(cli.ok, "del", "-n", dev_id)
    assert outcome.out == f"/dev/ublkb{dev_id}\n" and not outcome.err


def test_a_name_is_one_devices_alone(lab):
    device = lab.add("null", size=MIB, name="only")
    before = set(STATE.iterdir())
    error = refused("add", "-t", "null", "--size", "1M", "--name", "only")
    assert error["errno"] == "EEXIST" and f"ublkb{device.id}" in error["message"], error
    assert [d["dev_id"] for d in cli.devices()] == [device.id] and set(STATE.iterdir()) == before
    # one that was stopped has it until it is deleted
    cli.ok("stop", "-n", "only")
    assert refused("add", "-t", "null", "--size", "1M", "--name", "only")["errno"] == "EEXIST"
    cli.ok("del", "-n", "only")
    again = lab.add("null", size=MIB, name="only")
    assert cli.ok("info", "-n", "only")["dev_id"] == again.id


def test_a_name_stays_through_recovery_and_goes_with_what_is_left(lab):
    device = lab.add("null", size=MIB, name="kept", r=1)
    cli.ok("takeover", "-n", "kept")
    assert device.info()["name"] == "kept" and (STATE / f"{device.id}.udev").exists()
    device.delete()
    # what a crash between two writes leaves
    (STATE / "777.udev").write_text("UBLK_BPF_NAME=lost\n")
    assert [o["file"] for o in cli.ok("gc")["orphans"]] == ["777.udev"]
    assert not (STATE / "777.udev").exists()


@pytest.fixture
def udevd(lab):
    """udev, with our rule as a package lays it out."""
    rules = Path("/run/udev/rules.d")
    rules.mkdir(parents=True, exist_ok=True)
    (rules / RULES.name).write_bytes(RULES.read_bytes())
    daemon = subprocess.Popen(["/usr/lib/systemd/systemd-udevd"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    wait_for("udevd", lambda: Path("/run/udev/control").exists())
    yield lambda: sh("udevadm", "settle", "--timeout=60")
    daemon.terminate()
    daemon.wait()
    (rules / RULES.name).unlink()
    Path("/run/udev/control").unlink(missing_ok=True)


def links():
    return {p.name for p in BY_ID.glob("ublk-bpf-*")} if BY_ID.is_dir() else set()


def test_udev_links_a_name(lab, udevd):
    file = lab.file(lab.tmp, 8 * MIB)
    sh("sh", "-c", f"echo 'size=4M,type=83' | sfdisk -q {file}")
    device = lab.add("loop", file, name="web.1", r=1)
    nameless = lab.add("null", size=MIB)
    udevd()
    wait_for("the links", lambda: links() == {"ublk-bpf-web.1", "ublk-bpf-web.1-part1"}, timeout=10)
    assert os.path.realpath(BY_ID / "ublk-bpf-web.1") == device.path
    assert os.path.realpath(BY_ID / "ublk-bpf-web.1-part1") == f"{device.path}p1"
    assert cli.ok("info", "-n", BY_ID / "ublk-bpf-web.1")["dev_id"] == device.id
    error = refused("info", "-n", BY_ID / "ublk-bpf-web.1-part1")
    assert error["errno"] == "EINVAL" and "partition" in error["message"]
    # a change, as of its size, keeps them
    sh("udevadm", "trigger", "--action=change", f"/sys/block/ublkb{device.id}")
    udevd()
    assert "ublk-bpf-web.1" in links()
    device.delete()
    udevd()
    assert not links()
    # the number is another device's now, which has no name
    again = lab.add("null", size=MIB, n=device.id)
    udevd()
    assert not links() and again.id == device.id and nameless.exists()
