# SPDX-License-Identifier: MIT
"""State files that are cut short, of another version or not ours: said in one line, and the device is managed all the same."""

import json

import cli
import pytest
from blockio import MIB, Opened, fio_verify, pattern
from leftovers import STATE, nothing_is_left, state_files  # noqa: F401 (a fixture)
from test_badinput import FAILED, check_refusal
from test_kill import kill_server, quiesced

# about the server, not about the face
pytestmark = pytest.mark.one_face


def changed(**fields):
    def change(text):
        return json.dumps({**json.loads(text), **fields}).encode()

    return change


# what becomes of the file, words of the line about it
DAMAGE = {
    "empty": (lambda text: b"", "not the state of a device"),
    "cut-short": (lambda text: text[: len(text) // 2].encode(), "not the state of a device"),
    "newer": (changed(version=99), "version 99"),
    "older": (changed(version=0), "version 0"),
    "without-target": (changed(target=None), "not the state of a device"),
    "of-another-device": (changed(dev_id=77), "77"),
    "bytes": (lambda text: bytes(range(256)), "not the state of a device"),
}


def one_line(outcome, words):
    lines = check_refusal(outcome, words, FAILED)
    assert len(lines) == 1, str(outcome)


@pytest.mark.parametrize("damage", DAMAGE)
def test_device_whose_state_cannot_be_read(lab, damage):
    change, words = DAMAGE[damage]
    device, disk = lab.loop_device(4, r=1)
    path = STATE / f"{device.id}.json"
    good = path.read_text()
    path.write_bytes(change(good))

    listed = cli.run("list", "-n", device.id, "--json")
    assert listed.status == 0 and listed.json["devices"][0]["state"] == "live", str(listed)
    assert words in listed.err and len(listed.err.strip().splitlines()) == 1, str(listed)

    one_line(device.try_attach("loop"), words)
    assert device.info()["bpf"]["attached"] is False
    # who names the files needs no state
    device.attach("loop", file=disk)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    device.detach()

    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
    kill_server(device)
    quiesced(device)
    one_line(cli.run("recover", "-n", device.id, "--json"), words)
    assert device.state() == "quiesced"
    # nothing is lost: with its state back it goes on
    path.write_text(good)
    cli.ok("recover", "-n", device.id)
    with Opened(device.path) as f:
        assert f.read(0, 4096) == pattern(0, 4096)
    path.write_bytes(change(good))
    cli.ok("del", "-n", device.id)
    assert path.name not in state_files()


def test_state_without_a_device_goes_with_del(lab):
    STATE.mkdir(exist_ok=True)
    (STATE / "61.json").write_text("{ this is no JSON")
    outcome = cli.run("del", "-n", 61, "--json")
    assert outcome.status == 1 and outcome.json["error"]["errno"] == "ENODEV", str(outcome)
    assert "61.json" not in state_files()
