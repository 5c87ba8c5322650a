# SPDX-License-Identifier: MIT
"""Clones that are made independent of what is below them, while they are in use."""

import os
import subprocess
import time

import cli
import pytest
from blockio import MIB, Opened
from cli import wait_for
from clones import (OPS, SIZE, THREADS, Model, Writers, add, by_both, delta, golden, holds, kill, layer, layers_of, refused, served_anew,
                    snapshot, take_over, where)
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face


def flattened(device, **opts):
    return cli.ok("flatten", "-n", device.id, *cli.options(opts))


@by_both
def test_flattened_clone_needs_nothing_below_it(lab, where, bpf):
    """While it is written to, and killed; then all that it was on goes away."""
    golden = lab.file(where, 3 * SIZE, sparse=False)
    with open(golden, "rb") as f:
        image = f.read()
    below = layer(f"{golden}.below", base=golden, block_size=65536)
    device = add(lab, below, bpf)
    model = Model(lab, 65536)  # of the first third
    model("expect", golden)
    model("open", device.path)
    model("run", OPS, THREADS)
    snapshot(device, where / "snapshot")
    model.begin("run", 4 * OPS, THREADS)
    # of two thirds this is half a minute
    command = subprocess.Popen([cli.COMMAND, "flatten", "-n", str(device.id), "--rate", "512K"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for("it to have copied something", lambda: (device.info()["flatten"] or {}).get("copied_bytes"))
    refused(cli.run("snapshot", "-n", device.id, "--to", where / "more", "--json"), "EBUSY", "flatten")
    kill(device)
    assert "recover" in command.communicate(timeout=cli.seconds(60))[1] and command.returncode == 1
    cli.ok("recover", "-n", device.id)
    assert not device.info()["flatten"]["done"]
    flattened(device)
    model.end()
    assert layers_of(device) == [below] and device.info()["flatten"] is None
    # whatever had them open has not any more
    os.remove(golden)
    os.remove(where / "snapshot")
    model("verify")
    model("run", OPS, THREADS)
    take_over(device)
    device = served_anew(lab, device, below, model, bpf)
    assert holds(device.path, image[SIZE:], SIZE)
    flattened(device)


@pytest.mark.face
def test_program_has_only_the_top_after_flatten(lab, where, golden, delta):
    device = add(lab, delta)
    assert device.info()["bpf"]["nr_files"] == 2
    flattened(device)
    assert device.info()["bpf"]["nr_files"] == 1
    before = device.counters()["passed"]
    with Opened(device.path) as f, open(golden, "rb") as image:
        same = f.read(0, MIB) == image.read(MIB)
        assert same
    assert device.counters()["passed"] == before


def test_flatten_leaves_out_what_reads_as_zeroes(lab, where):
    golden = lab.file(where, 0)
    with open(golden, "wb") as f:
        f.truncate(SIZE)
        f.seek(MIB)
        f.write(os.urandom(65536))
        f.write(bytes(65536))
    device = add(lab, layer(where / "delta", base=golden))
    flattened(device)
    assert cli.ok("info", "-n", device.id)["layers"][0]["present_blocks"] == 16
    assert holds(device.path, bytes(65536), MIB + 65536)


def test_flatten_that_fails_says_why_and_the_device_lives(lab, where):
    golden = lab.file(where, 40 * MIB, sparse=False)
    small = lab.ext4(24)
    device = add(lab, layer(small / "delta", base=golden))
    outcome = cli.run("flatten", "-n", device.id, "--json")
    refused(outcome, "EIO", "No space left on device", "goes on from there")
    assert device.state() == "live"
    with Opened(device.path) as f, open(golden, "rb") as image:
        same = f.read(0, 4 * MIB) == image.read(4 * MIB)
        assert same
    cli.ok("flatten", "-n", device.id, "--stop")
    assert device.info()["flatten"] is None
    refused(cli.run("flatten", "-n", lab.add("loop", golden, read_only=True).id, "--json"), "EINVAL", "recovery")


@pytest.mark.full
@pytest.mark.face
def test_snapshot_after_a_flatten_that_nobody_waited_for_is_a_moment(lab, where):
    """The program that is attached then has more files than the chain, and the same maps."""
    base = layer(where / "base", size=Writers.SIZE)
    below = add(lab, base)
    behind = Writers.SIZE - MIB // 2  # what nobody writes to
    with Opened(below.path) as f:
        f.write(behind, os.urandom(MIB // 2))
    below.delete()
    device = add(lab, layer(where / "delta", base=base), q=2)
    # for some seconds
    command = subprocess.Popen([cli.COMMAND, "flatten", "-n", str(device.id), "--rate", "128K"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("it to begin", lambda: device.info()["flatten"])
    command.kill()
    command.wait()
    wait_for("its end", lambda: device.info()["flatten"]["done"])
    assert device.info()["bpf"]["nr_files"] == 2
    with Writers(device) as writers:
        wait_for("some writes", lambda: all(len(log) > 20 for log in writers.log))
        begun = time.monotonic()
        path = snapshot(device, where / "snapshot")
        ended = time.monotonic()
    now = time.monotonic()
    writers.check(device.path, now, now)
    old = lab.add("clone", path, read_only=True)
    writers.check(old.path, begun, ended)
