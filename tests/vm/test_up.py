# SPDX-License-Identifier: MIT
"""up, down and config check: from configurations to devices, and back."""

import json
import os
from pathlib import Path

import cli
import pytest
from blockio import MIB, Load, Opened, pattern
from cli import wait_for
from lab import sh
from test_kill import kill_server, quiesced

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face


class Configs:
    def __init__(self, lab):
        self.dir = lab.tmp / "etc"
        self.dir.mkdir()
        self.args = ("--config-dir", self.dir)
        lab.cleanup(cli.run, "del", "-a")

    def write(self, name, **keys):
        (self.dir / f"{name}.json").write_text(json.dumps({k.replace("_", "-"): v for k, v in keys.items()}))

    def up(self, *args):
        return cli.ok("up", *args, *self.args)["up"]

    def down(self, *args):
        return cli.ok("down", *args, *self.args)

    def fails(self, *args):
        """What comes up, and the errors of what does not."""
        outcome = cli.run(*args, *self.args, "--json")
        assert outcome.status == 1, str(outcome)
        assert len(outcome.err.strip().splitlines()) == len(outcome.json["failed"]), str(outcome)
        return outcome.json.get("up"), {f["name"]: f["error"]["message"] for f in outcome.json["failed"]}


@pytest.fixture
def configs(lab):
    return Configs(lab)


def device(name):
    return cli.Device(cli.ok("info", "-n", name))


def did(ups):
    return {u["name"]: u["did"] for u in ups}


@pytest.mark.one_face
def test_up_adds_and_down_deletes(lab, configs):
    file = lab.file(lab.tmp, 4 * MIB)
    configs.write("vm1", type="loop", file=file, queues=2, depth=16)
    configs.write("vm2", type="null", size="1M", recovery=False)
    (first,) = configs.up("vm1")
    assert first["did"] == "added" and first["attached"] is False
    info = cli.ok("info", "-n", "vm1")
    assert info["dev_id"] == first["dev_id"] and info["server"]["pid"] == first["pid"]
    assert (info["nr_hw_queues"], info["queue_depth"], info["recovery"], info["files"]) == (2, 16, "requeue", [file])
    assert did(configs.up("--all")) == {"vm1": "was up", "vm2": "added"}
    assert cli.ok("info", "-n", "vm2")["recovery"] == "none"
    assert cli.ok("info", "-n", "vm1")["server"]["pid"] == first["pid"]
    assert configs.down("vm1")["deleted"] == [first["dev_id"]]
    assert configs.down("vm1")["deleted"] == []
    assert len(configs.down("--all")["deleted"]) == 1 and not cli.devices()


@pytest.mark.one_face
def test_what_fails_is_said_and_the_others_come_up(lab, configs):
    configs.write("a-missing", type="loop", file=str(lab.tmp / "gone.img"))
    configs.write("b-wrong", type="null", sise="1M")
    configs.write("good", type="null", size="1M")
    up, failed = configs.fails("up", "--all")
    assert did(up) == {"good": "added"} and set(failed) == {"a-missing", "b-wrong"}
    assert "gone.img" in failed["a-missing"] and "'sise': is not a key" in failed["b-wrong"]
    up, failed = configs.fails("up", "nobody", "good")
    assert did(up) == {"good": "was up"} and f"{configs.dir}/nobody.json" in failed["nobody"]
    assert len(cli.devices()) == 1
    for args in ((), ("--all", "good")):
        assert cli.run("up", *args, *configs.args).status == 2


@pytest.mark.one_face
def test_a_device_on_another_comes_after_it(lab, configs):
    configs.write("above", type="loop", file="/dev/ublkb41", block_size=4096)
    configs.write("below", type="loop", file=lab.file(lab.tmp, 4 * MIB), dev=41)
    assert did(configs.up("--all")) == {"above": "added", "below": "added"}
    assert [u["name"] for u in cli.ok("up", "--all", *configs.args)["up"]] == ["above", "below"]
    # the one below is in use
    failed = cli.run("down", "below", *configs.args, "--json")
    assert failed.status == 1 and "is in use" in failed.err, str(failed)
    configs.down("above")
    assert configs.down("below")["deleted"] == [41]


def test_what_a_crash_left_is_recovered_by_one_process(lab, configs):
    for name in ("a", "b"):
        configs.write(name, type="null", size="1M")
    added = cli.ok("add", "-t", "null", "--size", "1M", "--count", 2, "--name", "a", "--name", "b", "-r", "1")["devices"]
    devices = [cli.Device(d) for d in added]
    kill_server(devices[0])
    for one in devices:
        quiesced(one)
    ups = configs.up("--all")
    assert did(ups) == {"a": "recovered", "b": "was up"}
    assert len({u["pid"] for u in ups}) == 1
    assert all(d.state() == "live" for d in devices)


@pytest.mark.one_face
def test_a_device_that_died_is_added_again(lab, configs):
    configs.write("a", type="null", size="1M", recovery=False)
    (first,) = configs.up("a")
    kill_server(device("a"))
    wait_for("the device to be dead", lambda: cli.ok("info", "-n", "a")["state"] == "dead")
    (again,) = configs.up("a")
    assert again["did"] == "added" and again["pid"] != first["pid"]
    assert cli.ok("info", "-n", "a")["state"] == "live"


@pytest.mark.face
def test_up_attaches_the_program(lab, configs):
    one, two = (lab.file(lab.tmp, 4 * MIB) for _ in range(2))
    configs.write("cat", type="null", size="8M",
                  program={"object": cli.program("concat"), "file": [one, two], "set": {"split_sectors": 8192}})
    (up,) = configs.up("cat")
    assert up["attached"] is True
    with Opened(f"/dev/ublkb{up['dev_id']}") as disk:
        disk.write(5 * MIB, pattern(0, 4096))
        disk.flush()
    assert Path(two).read_bytes()[MIB:MIB + 4096] == pattern(0, 4096)
    assert configs.up("cat")[0]["attached"] is False
    # it outlives the server, and is not attached twice
    bpf = device("cat").info()["bpf"]
    kill_server(device("cat"))
    quiesced(device("cat"))
    (again,) = configs.up("cat")
    assert again["did"] == "recovered" and again["attached"] is False
    assert device("cat").info()["bpf"]["prog_id"] == bpf["prog_id"]
    # taken off by hand: it is what the configuration says again
    device("cat").detach()
    assert configs.up("cat")[0] == {**again, "did": "was up", "attached": True}


@pytest.mark.face
def test_without_its_program_a_new_device_goes(lab, configs):
    configs.write("cat", type="null", size="8M", program={"object": cli.program("concat"), "set": {"no_such_knob": 1}})
    up, failed = configs.fails("up", "cat")
    assert up == [] and "no_such_knob" in failed["cat"]
    assert not cli.devices()


@pytest.mark.face
def test_takeover_under_load(lab, configs):
    file = lab.file(lab.tmp, 16 * MIB)
    configs.write("vm1", type="loop", file=file)
    (first,) = configs.up("vm1")
    with Load(f"/dev/ublkb{first['dev_id']}", size=8 * MIB) as load:
        wait_for("I/O", lambda: load.rounds >= 1, timeout=60)
        (taken,) = configs.up("--takeover", "vm1")
        after = load.rounds
        wait_for("I/O", lambda: load.rounds > after, timeout=60)
    assert taken["did"] == "taken over" and taken["pid"] != first["pid"]


@pytest.mark.one_face
def test_down_keeps_what_is_mounted(lab, configs):
    file = lab.file(lab.tmp, 16 * MIB)
    sh("mkfs.ext4", "-q", "-F", file)
    configs.write("a", type="loop", file=file)
    configs.write("b", type="null", size="1M")
    configs.up("--all")
    where = lab.mount(device("a").path)
    outcome = cli.run("down", "--all", *configs.args, "--json")
    assert outcome.status == 1 and str(where) in outcome.err, str(outcome)
    assert [d["name"] for d in cli.devices()] == ["a"]
    (where / "file").write_text("there")
    lab.umount(where)
    configs.down("--all")
    assert not cli.devices()


@pytest.mark.one_face
def test_another_file_than_configured_is_said(lab, configs):
    file = lab.file(lab.tmp, 4 * MIB)
    configs.write("a", type="loop", file=file)
    configs.up("a")
    configs.write("a", type="loop", file=lab.file(lab.tmp, 4 * MIB))
    outcome = cli.run("up", "a", *configs.args)
    assert outcome.status == 0 and "serves other files" in outcome.err, str(outcome)
    assert cli.ok("info", "-n", "a")["files"] == [file]


@pytest.mark.one_face
def test_config_check(lab, configs):
    file = lab.file(lab.tmp, 4 * MIB)
    configs.write("good", type="loop", file=file)
    configs.write("gone", type="loop", file=f"{file}.gone")
    configs.write("wrong", type="loop", file=file, queus=2)
    (configs.dir / "cut.json").write_text('{"type": ')
    outcome = cli.run("config", "check", *configs.args, "--json")
    assert outcome.status == 1
    errors = {c["name"]: c["error"] for c in outcome.json["configurations"]}
    assert list(errors) == ["cut", "gone", "good", "wrong"] and errors["good"] is None
    assert "is not JSON" in errors["cut"] and f"{file}.gone" in errors["gone"] and "'queues'" in errors["wrong"]
    assert len(outcome.err.strip().splitlines()) == 3
    assert cli.run("config", "check", "good", *configs.args).status == 0
    assert not cli.devices() and os.path.exists(file)
