# SPDX-License-Identifier: MIT
"""Clones whose disk becomes larger while it is in use, by ublk-bpf resize."""

import json

import cli
import pytest
from blockio import MIB, Opened, pattern
from cli import wait_for
from clones import (SIZE, Writers, add, by_both, check_clean, delta, golden, holds, kill, killed_at, layer, recover_if_it_waits, refused, snapshot,
                    traced, where)
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face


def resize(device, size):
    said = cli.ok("resize", "-n", device.id, "--size", size)
    assert said["size_bytes"] == device.info()["size_bytes"] == size


def passed(device):
    return device.counters()["passed"]


def write(device, at, data):
    with Opened(device.path) as f:
        f.write(at, data)


@by_both
def test_disk_grows_while_it_is_written(lab, where, bpf):
    """Neither an error nor a lost write; what is new is zeroes first, and is written like the rest."""
    device = add(lab, layer(where / "delta", size=Writers.SIZE), bpf, q=2)
    size = Writers.SIZE
    with Writers(device) as writers:
        for n in range(1, 4):
            wait_for("some writes", lambda: all(len(log) > 20 * n for log in writers.log))
            before, size = size, size + n * 8 * MIB + 4096 * n
            resize(device, size)
            assert holds(device.path, bytes(65536), size - 65536)
            write(device, before, pattern(before, 4096))
            write(device, size - 512, pattern(n, 512))
            assert holds(device.path, pattern(before, 4096), before)
    print(f"the longest write took {writers.longest * 1000:.0f} ms")
    device.delete()
    check_clean(where / "delta")
    device = add(lab, where / "delta", bpf)
    assert device.size == size
    writers.check(device.path, writers.log[0][-1][3], writers.log[0][-1][3])
    assert holds(device.path, pattern(3, 512), size - 512)


@by_both
def test_what_is_beyond_the_layers_below_is_zeroes(lab, where, golden, delta, bpf):
    """Of a chain whose layers have grown from one to the next; the program serves it, too."""
    device = add(lab, delta, bpf)
    data = pattern(0, 65536)
    write(device, SIZE - 65536, data)
    snapshot(device, where / "monday")
    resize(device, 2 * SIZE)
    write(device, SIZE + 65536, data)
    tuesday = snapshot(device, where / "tuesday")
    resize(device, 3 * SIZE + 4096)
    write(device, 2 * SIZE - 512, data[:1024])
    before = passed(device) if bpf else 0
    for at, what in ((SIZE - 65536, data), (SIZE, bytes(65536)), (SIZE + 65536, data), (2 * SIZE - 65536, bytes(65536 - 512)), (2 * SIZE - 512, data[:1024]),
                     (2 * SIZE + 512, bytes(65536)), (3 * SIZE, bytes(4096))):
        assert holds(device.path, what, at), at
    assert not bpf or passed(device) == before
    cli.ok("reset", "-n", device.id)
    assert device.info()["size_bytes"] == 3 * SIZE + 4096 and holds(device.path, bytes(65536), 2 * SIZE - 65536)
    cli.ok("flatten", "-n", device.id)
    for at, what in ((SIZE - 65536, data), (SIZE, bytes(65536)), (SIZE + 65536, data)):
        assert holds(device.path, what, at), at
    device.delete()
    check_clean(delta)
    check_clean(tuesday)


@by_both
@pytest.mark.every
@pytest.mark.parametrize("call", ["ftruncate", "fdatasync", "pwrite64", "renameat", "flock"])
def test_nothing_is_lost_if_it_is_killed_at_any_step(lab, golden, delta, call, bpf):
    if not cli.FULL and call != "pwrite64":
        pytest.skip("takes long; runs with UBLK_BPF_FULL=1")
    device = add(lab, delta, bpf)
    data, nr_killed = pattern(0, 65536), 0
    while True:
        write(device, MIB + nr_killed * 65536, data)
        size = SIZE + (nr_killed + 1) * 4096
        if not killed_at(device, call, nr_killed + 1, "resize", "-n", device.id, "--size", size):
            break
        nr_killed += 1
        assert nr_killed < 40, f"it was killed at each of 40 {call}"
        recover_if_it_waits(device)
        for n in range(nr_killed):
            assert holds(device.path, data, MIB + n * 65536), (nr_killed, n)
    assert nr_killed, f"there was no {call}"
    resize(device, size + 4096)
    write(device, size, data[:4096])
    device.delete()
    check_clean(delta)
    device = add(lab, delta, bpf)
    assert device.size == size + 4096 and holds(device.path, data[:4096], size)
    for n in range(nr_killed + 1):
        assert holds(device.path, data, MIB + n * 65536), n


@by_both
@pytest.mark.parametrize("call, error", [("ftruncate", "EFBIG"), ("fallocate", "ENOSPC")])
def test_growth_that_fails_leaves_the_disk_as_it_was(lab, golden, delta, call, error, bpf):
    """The new server has the device by then, and serves it with the map that it had."""
    device = add(lab, delta, bpf)
    data = pattern(0, 65536)
    write(device, MIB, data)
    process = traced(call, f"error={error}:when=1+", "resize", "-n", device.id, "--size", 2 * SIZE)
    said = json.loads(process.stdout.readline())
    assert said["error"]["errno"] == error and delta in said["error"]["message"], said
    assert device.state() == "live" and device.info()["size_bytes"] == SIZE
    write(device, 2 * MIB, data)
    write(device, 3 * MIB + 512, data)
    kill(device)  # which ends strace, too
    process.communicate(timeout=cli.seconds(60))
    wait_for("it to wait", lambda: device.state() == "quiesced")
    cli.ok("recover", "-n", device.id)
    for at in (MIB, 2 * MIB, 3 * MIB + 512):
        assert holds(device.path, data, at), at
    resize(device, 2 * SIZE)
    device.delete()
    check_clean(delta)
    device = add(lab, delta, bpf)
    for at in (MIB, 2 * MIB, 3 * MIB + 512):
        assert holds(device.path, data, at), at


def test_sizes_that_cannot_be_are_refused(lab, golden, delta):
    device = add(lab, delta)
    write(device, 0, pattern(0, 4096))

    def try_size(*args):
        return cli.run("resize", "-n", device.id, *args, "--json")

    refused(try_size(), "EINVAL", "--size SIZE")
    refused(try_size("--size", SIZE - 4096, "--shrink"), "EOPNOTSUPP", f"{SIZE} bytes", "cannot become smaller")
    refused(try_size("--size", SIZE + 100), "EINVAL", str(SIZE + 100))
    refused(try_size("--size", "1T"), "EFBIG", "no room")
    pid = device.server_pid()
    assert device.info()["size_bytes"] == SIZE and device.state() == "live"
    assert holds(device.path, pattern(0, 4096))
    resize(device, SIZE)  # as it was
    assert device.server_pid() != pid
    other = lab.add("clone", layer(f"{golden}.second", base=golden), no_bpf=True)
    refused(cli.run("resize", "-n", other.id, "--size", 2 * SIZE, "--json"), "EINVAL", "added without recovery")
