# SPDX-License-Identifier: MIT
"""A program's maps: info lists them, --pin-maps gives them names, --keep-maps hands them on to the next program."""

import os
import shutil
from pathlib import Path

import cli
import pytest
from blockio import Load, Opened
from bpfmaps import bpftool, map_ids
from lab import sh
from test_kill import kill_server

BPFFS = Path("/sys/fs/bpf")
READ, WRITE = 0, 1


@pytest.fixture
def pins():
    """A directory for pins, which has to be empty in the end."""
    if not os.path.ismount(BPFFS):
        sh("mount", "-t", "bpf", "bpf", BPFFS)
    where = BPFFS / "ublk-bpf-test"
    yield where
    left = [str(p) for p in where.rglob("*")] if where.exists() else []
    shutil.rmtree(where, ignore_errors=True)
    assert not left, f"pins are left behind: {left}"


@pytest.fixture
def device(lab):
    return lab.loop_device(8, r=1)[0]


def maps(device):
    return {m["name"]: m for m in cli.ok("info", "-n", device.id)["maps"]}


def counted(device):
    """What the program has counted, by operation."""
    entries = bpftool("map", "dump", "id", maps(device)["counts"]["id"])
    return [e["formatted"]["value"] for e in entries]


def reads(device, times):
    with Opened(device.path) as f:
        for _ in range(times):
            f.read(8192, 512)


def test_maps_of_the_attached_program_are_listed(device):
    assert maps(device) == {}
    device.attach("tally")
    found = maps(device)
    assert {name: m["id"] for name, m in found.items()} == map_ids(device.info()["bpf"]["prog_id"])
    counts = found["counts"]
    assert (counts["type"], counts["key_bytes"], counts["value_bytes"], counts["max_entries"]) == ("array", 4, 8, 6)
    assert "tally.bss" in found and all(m["pinned"] is None for m in found.values())
    assert f"map counts: id {counts['id']}" in cli.run("info", "-n", device.id).out
    before = counted(device)[READ]
    reads(device, 5)
    assert counted(device)[READ] >= before + 5
    # its two halves may have different ones
    device.attach("complete", replace=True)
    assert "complete.bss" in maps(device)
    device.detach()
    assert maps(device) == {}


def test_pins_are_there_while_the_program_is(device, pins):
    where = pins / f"ublkb{device.id}"
    device.attach("tally", pin_maps=pins)
    assert {p.name for p in where.iterdir()} == {"counts", "tally_bss"}
    found = maps(device)
    assert found["counts"]["pinned"] == str(where / "counts") and found["tally.bss"]["pinned"] == str(where / "tally_bss")
    reads(device, 1)
    (bss,) = bpftool("map", "dump", "pinned", where / "tally_bss")
    assert "last_sector" in str(bss)
    # one that somebody else has removed is not missed
    (where / "tally_bss").unlink()
    assert maps(device)["tally.bss"]["pinned"] is None
    # the next one has maps of its own, and others
    old = found["counts"]["id"]
    device.attach("tally", pin_maps=pins, replace=True)
    assert bpftool("map", "show", "pinned", where / "counts")["id"] == maps(device)["counts"]["id"] != old
    device.attach("loop", replace=True)
    assert not where.exists()
    device.attach("tally", pin_maps=pins, replace=True)
    device.detach()
    assert not where.exists()


@pytest.mark.parametrize("how", ["del", "gc"])
def test_pins_go_with_the_device(lab, pins, how):
    device, _ = lab.loop_device(8)
    device.attach("tally", pin_maps=pins)
    assert (pins / f"ublkb{device.id}" / "counts").exists()
    if how == "del":
        device.delete()
    else:
        kill_server(device)
        cli.wait_for("the device to be dead", lambda: device.state() == "dead")
        cli.ok("gc")
    assert not (pins / f"ublkb{device.id}").exists()


def test_failed_attach_changes_no_pins(device, pins):
    device.attach("tally", pin_maps=pins)
    before = maps(device)
    for refused in (device.try_attach("bad_loop", pin_maps=pins, replace=True), device.try_attach("tally", pin_maps=pins),
                    device.try_attach("tally_wide", pin_maps=pins, replace=True, keep_maps=True)):
        assert refused.status == 1, str(refused)
        assert maps(device) == before
    assert {p.name for p in (pins / f"ublkb{device.id}").iterdir()} == {"counts", "tally_bss"}
    device.detach()


def test_pins_need_a_bpf_file_system(lab, device):
    for where in (lab.tmp / "pins", lab.tmp):
        refused = device.try_attach("tally", pin_maps=where)
        assert refused.status == 1 and "is not in a BPF file system" in refused.err, str(refused)
    assert not (lab.tmp / "pins").exists() and not device.info()["bpf"]["attached"]


def test_next_program_goes_on_with_the_maps(lab, device, pins):
    device.attach("tally", pin_maps=pins)
    reads(device, 10)
    before = maps(device)
    # the next version may have another file name
    newer = shutil.copy(cli.program("tally"), lab.tmp / "newer.bpf.o")
    with Load(device.path, size="2m", io_size="1m") as load:
        for name in (str(newer), "tally"):
            count = counted(device)
            device.attach(name, replace=True, keep_maps=True)
            assert {n: m["id"] for n, m in maps(device).items() if not n.endswith(".rodata")} == \
                {n: m["id"] for n, m in before.items()}
            assert all(new >= old for new, old in zip(counted(device), count)) and counted(device)[READ] >= 10
            load.check()
    assert maps(device)["counts"]["pinned"] == str(pins / f"ublkb{device.id}" / "counts"), "they stay where they were"
    device.attach("tally", replace=True)
    assert counted(device)[WRITE] == 0 and maps(device)["counts"]["id"] != before["counts"]["id"]
    device.detach()


def test_maps_that_cannot_be_kept_are_named(lab, device):
    device.attach("tally")
    before = device.info()["bpf"]["prog_id"], maps(device)
    wide = device.try_attach("tally_wide", replace=True, keep_maps=True)
    for words in ("map counts is array of 12 entries", "array of 6 entries", f"id {before[1]['counts']['id']}"):
        assert words in wide.err, str(wide)
    without = device.try_attach("loop", replace=True, keep_maps=True)
    assert without.status == 1 and "has no map counts" in without.err, str(without)
    assert (device.info()["bpf"]["prog_id"], maps(device)) == before
    assert device.try_attach("tally", keep_maps=True).status == 2
    device.detach()
    alone = device.try_attach("tally", replace=True, keep_maps=True)
    assert alone.status == 1 and "has no program attached" in alone.err, str(alone)
