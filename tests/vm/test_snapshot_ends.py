# SPDX-License-Identifier: MIT
"""Snapshots and resets whose server is killed at any step, or whose machine has no power any more."""

import os

import cli
import pytest
from blockio import MIB, Opened, pattern
from clones import add, by_both, check_clean, delta, golden, holds, killed_at, layer, recover_if_it_waits, refused, snapshot, where
from lab import sh
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

# what is asked of the kernel here is in the engine, which both faces share
# Most of its cases are skipped.
pytestmark = [pytest.mark.one_face, pytest.mark.quick_tests(99)]


# each system call of the new server at which it can be killed, of these kinds
CALLS = ["linkat", "renameat", "fsync", "fdatasync", "flock"]


@by_both
@pytest.mark.every
@pytest.mark.parametrize("what", ["snapshot", "reset"])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_lost_if_it_is_killed_at_any_step(lab, where, golden, what, call, bpf):
    if not cli.FULL and (what, call) not in {("snapshot", "renameat"), ("reset", "fsync")}:
        pytest.skip("takes long; runs with UBLK_BPF_FULL=1")
    device = add(lab, layer(f"{golden}.delta", base=golden), bpf)
    old, new = pattern(0, 65536), pattern(0, 65536, seed=2)
    with Opened(device.path) as f:
        f.write(MIB, old)
    snapshot(device, where / "before")
    taken = where / "taken"
    args = [what, "-n", device.id, *(["--to", taken] if what == "snapshot" else [])]
    nr_killed = 0
    while True:
        with Opened(device.path) as f:
            f.write(MIB, new)
            f.write(2 * MIB + nr_killed * 65536 + 512, new[:512])
        if not killed_at(device, call, nr_killed + 1, *args):
            break
        nr_killed += 1
        assert nr_killed < 30, f"it was killed at each of 30 {call}"
        recover_if_it_waits(device)
        assert holds(device.path, new, MIB) or what == "reset" and holds(device.path, old, MIB), nr_killed
        if taken.exists():
            # all of it, or it is no snapshot
            check_clean(taken)
            assert cli.ok("layer", "info", taken)["sealed"], nr_killed
            taken = where / f"taken{nr_killed}"
            args[-1] = taken
    assert nr_killed, f"there was no {call}"
    assert holds(device.path, new if what == "snapshot" else old, MIB)
    device.delete()
    check_clean(f"{golden}.delta")
    left = [name for name in os.listdir(where) if name.endswith(".new")]
    assert not left


def test_snapshot_that_the_power_interrupted_is_finished_by_add(lab, where, golden, delta):
    """As after the rename: an empty layer on one that is not sealed."""
    device = add(lab, delta)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
        f.flush()
    sealed = snapshot(device, where / "monday")
    device.delete()
    unseal(sealed)
    refused(cli.run("layer", "info", "--chain", delta, "--json"), "ETXTBSY", "finishes the snapshot")
    device = add(lab, delta)
    assert cli.ok("layer", "info", sealed)["sealed"]
    assert holds(device.path, data, MIB)
    with Opened(device.path) as f:
        f.write(MIB, data)
        f.flush()
    device.delete()
    unseal(sealed)
    # not one that has blocks: they may be upon other bytes
    refused(cli.run("add", "-t", "clone", "-f", delta, "--json"), "ETXTBSY", sealed)


def unseal(path):
    sh(cli.TOOLS / "unseal", path)
