# SPDX-License-Identifier: MIT
"""
Snapshots, forks, resets and differences of clones that are in use: each is one moment of the device, whoever writes to it
meanwhile; nothing is lost if whoever makes it dies; and what cannot be done is refused with nothing changed.
"""

import json
import os
import subprocess
import threading
import time

import cli
import pytest
from blockio import MIB, Opened, pattern
from cli import wait_for
from clones import (OPS, SIZE, THREADS, Model, Writers, add, by_both, check_clean, delta, flush, fork, golden, holds, kill, kill_and_recover, layer, layers_of,
                    refused, snapshot, take_over, traced, where)
from lab import sh
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face


@by_both
@pytest.mark.parametrize("block", [4096, 65536])
def test_random_io_is_what_it_is_in_memory_across_snapshots(lab, where, golden, block, bpf):
    device = add(lab, layer(f"{golden}.delta", base=golden, block_size=block), bpf, q=2)
    model, kept = Model(lab, block), {}
    model("expect", golden)
    model("open", device.path)
    for n in range(6):
        model("run", OPS, THREADS)
        if n == 3:
            cli.ok("reset", "-n", device.id, "--force")
            model("back", "2")
            model("verify")
        # whatever it is a snapshot of, the device stays what it is
        model.begin("run", OPS, THREADS)
        snapshot(device, where / f"meanwhile{n}")
        model.end()
        model("run", OPS, THREADS)
        kept[n] = snapshot(device, where / f"snapshot{n}")
        model("keep", n)
        model("run", OPS, THREADS)
        if n in (1, 4):
            # the model has the part that was there before
            model.begin("run", OPS, THREADS)
            cli.ok("resize", "-n", device.id, "--size", SIZE + n * MIB)
            model.end()
        if n % 2:
            model.begin("run", OPS, THREADS)
            (kill_and_recover if n % 4 == 1 else take_over)(device)
            model.end()
        if n == 2:
            model("back", n)
            cli.ok("reset", "-n", device.id, "--force")
    model("verify")
    model("keep", "last")
    forked = fork(lab, device, where / "forked")
    model("run", OPS, THREADS)
    model("close")
    model("open", forked.path)
    model("back", "last")
    model("verify")
    model("run", OPS, THREADS)
    model("verify")
    model("close")
    device.delete()
    forked.delete()
    for n, path in kept.items():
        check_clean(path)
        old = lab.add("clone", path, read_only=True)
        model("back", n)
        model("look", old.path)
        model("verify")
        model("close")
        old.delete()


def snapshot_slowly(device, to):
    """Its server is held up at each lock that it takes, also between its steps; a tracer goes with it."""
    process = traced("flock", "delay_enter=100ms", "snapshot", "-n", device.id, "--to", to)
    said = json.loads(process.stdout.readline())
    assert "error" not in said, said
    return process


@by_both
def test_snapshot_is_a_moment_of_the_device(lab, where, bpf):
    device = add(lab, layer(where / "delta", size=Writers.SIZE), bpf, q=2)
    taken, slow = [], []
    with Writers(device) as writers:
        for n in range(8 if cli.FULL else 4):
            wait_for("some writes", lambda: all(len(log) > 20 * (n + 1) for log in writers.log))
            begun = time.monotonic()
            path = str(where / f"snapshot{n}")
            if n % 2:
                slow.append(snapshot_slowly(device, path))
            else:
                snapshot(device, path)
            taken.append((path, begun, time.monotonic()))
    now = time.monotonic()
    writers.check(device.path, now, now)
    device.delete()
    for process in slow:
        process.communicate(timeout=cli.seconds(60))
    print(f"the longest write took {writers.longest * 1000:.0f} ms")
    for path, begun, ended in taken:
        check_clean(path)
        old = lab.add("clone", path, read_only=True)
        writers.check(old.path, begun, ended)
        old.delete()


@by_both
def test_reset_takes_back_what_was_written_since(lab, where, golden, delta, bpf):
    device = add(lab, delta, bpf)
    first, second = pattern(0, 65536), pattern(0, 65536, seed=2)
    with Opened(device.path) as f:
        f.write(MIB, first)
    monday = snapshot(device, where / "monday")
    with Opened(device.path) as f:
        f.write(MIB, second)
    tuesday = snapshot(device, where / "tuesday")
    with Opened(device.path) as f:
        f.write(2 * MIB, second)
    cli.ok("reset", "-n", device.id)
    assert layers_of(device) == [delta, tuesday, monday, str(golden)]
    assert holds(device.path, second, MIB) and not holds(device.path, second, 2 * MIB)
    cli.ok("reset", "-n", device.id, "--to", monday)
    assert layers_of(device) == [delta, monday, str(golden)]
    assert holds(device.path, first, MIB)
    with Opened(device.path) as f:
        f.write(3 * MIB + 512, second)
    kill_and_recover(device)
    assert holds(device.path, first, MIB) and holds(device.path, second, 3 * MIB + 512)
    device.delete()
    device = add(lab, delta, bpf)
    assert holds(device.path, first, MIB) and holds(device.path, second, 3 * MIB + 512)


def test_reset_of_a_mounted_device_is_refused(lab, where):
    delta = layer(where / "delta", size=32 * MIB)
    device = add(lab, delta)
    sh("mkfs.ext4", "-q", device.path)
    snapshot(device, where / "clean")
    mount = lab.mount(device.path)
    (mount / "file").write_text("text")
    refused(cli.run("reset", "-n", device.id, "--json"), "EBUSY", str(mount), "--force")
    lab.umount(mount)
    cli.ok("reset", "-n", device.id)
    mount = lab.mount(device.path)
    assert not (mount / "file").exists()


@by_both
def test_fork_is_a_second_device_with_the_same_bytes(lab, where, delta, bpf):
    device = add(lab, delta, bpf, q=2)
    data, other = pattern(0, 65536), pattern(0, 65536, seed=2)
    with Opened(device.path) as f:
        f.write(MIB + 512, data)
    forked = fork(lab, device, where / "second")
    assert holds(forked.path, data, MIB + 512)
    for field in ("nr_hw_queues", "queue_depth", "recovery", "data_path", "batch", "bpf_capable"):
        assert forked.info()[field] == device.info()[field], field
    with Opened(device.path) as f:
        f.write(MIB, other)
    with Opened(forked.path) as f:
        f.write(2 * MIB, other)
    assert not holds(forked.path, other, MIB) and not holds(device.path, other, 2 * MIB)
    # nothing is written to the third: it takes no layer more
    third = fork(lab, forked, where / "third")
    depth = len(layers_of(third))
    fourth = fork(lab, third, where / "fourth")
    assert len(layers_of(fourth)) == depth
    for one in (device, forked, third, fourth):
        one.delete()


def test_file_system_in_a_snapshot_is_whole_again_and_again(lab, where):
    device = add(lab, layer(where / "delta", size=48 * MIB, block_size=65536))
    sh("mkfs.ext4", "-q", device.path)
    mount = lab.mount(device.path)
    for n in range(4):
        for k in range(5):
            (mount / f"file{n}.{k}").write_bytes(os.urandom(300000))
        sh("sync", "-f", mount)
        (mount / "unsynced").write_bytes(os.urandom(100000))
        path = snapshot(device, where / f"snapshot{n}")
        top = layer(where / f"look{n}", base=path)
        look = lab.add("clone", top)
        old = lab.mount(look.path)  # replays the journal
        assert sorted(p.name for p in old.iterdir() if p.name.startswith("file")) == sorted(
            f"file{i}.{k}" for i in range(n + 1) for k in range(5))
        for p in old.iterdir():
            if p.name.startswith("file"):
                is_same = p.read_bytes() == (mount / p.name).read_bytes()
                assert is_same, p.name
        lab.umount(old)
        sh("e2fsck", "-f", "-n", look.path)
        look.delete()
    lab.umount(mount)
    sh("e2fsck", "-f", "-n", device.path)


@by_both
def test_difference_is_what_a_copy_of_the_snapshot_lacks(lab, where, golden, delta, bpf):
    device = add(lab, delta, bpf)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 8192))
    monday = snapshot(device, where / "monday")
    assert cli.ok("diff", "-n", device.id, "--since", monday) == []
    with Opened(device.path) as f:
        f.write(MIB, pattern(0, 65536))
        f.write(3 * MIB + 512, pattern(0, 512))
        f.discard(4 * MIB, MIB)
    expected = [{"start": MIB, "length": 65536, "zero": False, "data": True},
                {"start": 3 * MIB, "length": 4096, "zero": False, "data": True},
                {"start": 4 * MIB, "length": MIB, "zero": True, "data": False}]
    assert cli.ok("diff", "-n", device.id, "--since", monday) == expected
    assert cli.ok("diff", "-n", device.id) == expected
    first = {"start": 0, "length": 8192, "zero": False, "data": True}
    assert cli.ok("diff", "-n", device.id, "--since", golden) == [first, *expected]
    refused(cli.run("diff", "-n", device.id, "--since", layer(where / "foreign", size=SIZE), "--json"), "ENOENT", "foreign")


def incremental_copy(device, copy, changes):
    with Opened(device.path) as f, open(copy, "r+b") as to:
        for change in changes:
            to.seek(change["start"])
            to.write(f.read(change["start"], change["length"]))


def test_incremental_backup_by_differences_is_the_device(lab, where, golden, delta):
    device = add(lab, delta, q=2)
    model = Model(lab, 4096)
    model("expect", golden)
    model("open", device.path)
    backup = lab.file(lab.tmp, SIZE)
    snap = snapshot(device, where / "snapshot0")
    incremental_copy(device, backup, [{"start": 0, "length": SIZE}])
    for n in range(1, 4):
        model("run", OPS, THREADS)
        changes = cli.ok("diff", "-n", device.id, "--since", snap)
        snap = snapshot(device, where / f"snapshot{n}")
        incremental_copy(device, backup, changes)
    model("verify")
    model("close")
    with open(backup, "rb") as f:
        assert holds(device.path, f.read())


def untouched(device, files):
    """Lists the directory, and sees that the device lives."""
    assert device.state() == "live"
    return sorted(os.listdir(files))


def test_what_cannot_be_taken_is_refused_with_nothing_changed(lab, where, golden, delta):
    device = add(lab, delta)
    other = lab.ext4(32)
    before = untouched(device, where)
    taken = where / "taken"
    for name, path, text in [("EEXIST", golden, "is not overwritten"), ("EXDEV", other / "x", "same file system"),
                             ("ENOENT", where / "none" / "x", "none")]:
        refused(cli.run("snapshot", "-n", device.id, "--to", path, "--json"), name, text)
        refused(cli.run("fork", "-n", device.id, "--to", path, "--json") if name == "EEXIST" else
                cli.run("snapshot", "-n", device.id, "--to", path, "--json"), name)
    refused(cli.run("reset", "-n", device.id, "--to", layer(other / "foreign", size=SIZE), "--json"), "ENOENT", "foreign")
    assert untouched(device, where) == before
    plain = lab.add("clone", layer(f"{golden}.plain", base=golden))
    refused(cli.run("snapshot", "-n", plain.id, "--to", taken, "--json"), "EINVAL", "without recovery")
    loop = lab.add("loop", lab.file(lab.tmp, SIZE), r=1)
    refused(cli.run("snapshot", "-n", loop.id, "--to", taken, "--json"), "EINVAL", "only a clone")
    refused(cli.run("diff", "-n", loop.id, "--json"), "EINVAL", "only a clone")
    assert not taken.exists()


def test_names_that_would_lose_the_layer_are_refused(lab, where, golden, delta):
    device = add(lab, delta)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    linked, symbolic = where / "linked", where / "symbolic"
    os.link(delta, linked)
    os.symlink(delta, symbolic)
    for path in (delta, linked, symbolic):
        refused(cli.run("snapshot", "-n", device.id, "--to", path, "--json"), "EEXIST", str(path))
        assert path.is_symlink() if path == symbolic else os.stat(path).st_ino == os.stat(delta).st_ino
    refused(cli.run("fork", "-n", device.id, "--to", where / "x", "--snapshot", where / "x", "--json"), "EINVAL", "the same")
    refused(cli.run("fork", "-n", device.id, "--to", f"{golden}.plain", "--snapshot", delta, "--json"), "EEXIST", delta)
    in_the_way = where / f".{os.path.basename(delta)}.new"
    in_the_way.write_text("somebody's")
    refused(cli.run("snapshot", "-n", device.id, "--to", where / "x", "--json"), "EEXIST", "in the way")
    assert in_the_way.read_text() == "somebody's"
    in_the_way.unlink()
    # a name that the fork would have chosen itself
    forked = fork(lab, device, f"{delta}.1")
    assert layers_of(device)[1] == f"{delta}.2" == layers_of(forked)[1]
    assert holds(device.path, data, MIB) and holds(forked.path, data, MIB)


def test_reset_needs_something_to_go_back_to(lab, where, golden):
    device = add(lab, layer(where / "alone", size=SIZE))
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    refused(cli.run("reset", "-n", device.id, "--json"), "EINVAL", "is on nothing")
    assert holds(device.path, data, MIB)
    other = add(lab, layer(where / "other", base=golden))
    snapshot(other, where / "snapshot")
    with Opened(other.path) as f:
        f.write(MIB, data)
    cli.ok("reset", "-n", other.id, "--to", golden)
    assert layers_of(other) == [str(where / "other"), golden]
    assert not holds(other.path, data, MIB)


@pytest.mark.face
def test_nothing_old_is_read_after_a_write_that_the_new_server_did(lab, where, golden):
    """Each is read back as soon as it is done, by somebody who did not wait in the driver himself."""
    device = add(lab, layer(where / "delta", base=golden), q=2)
    wrong, threads = [], []

    def write_and_read(number):
        with Opened(device.path) as f:
            at, data = number % 512 * 4096, number.to_bytes(8, "little") * 64
            f.write(at, data)  # a part of a block
            if f.read(at, 512) != data:
                wrong.append(number)

    for n in range(4):
        command = subprocess.Popen([cli.COMMAND, "snapshot", "-n", str(device.id), "--to", str(where / f"after{n}")],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while command.poll() is None:
            time.sleep(0.005)
            # those of before may all wait in the driver; but some tags are to be free
            if sum(thread.is_alive() for thread in threads[-100:]) < 64:
                threads.append(threading.Thread(target=write_and_read, args=(len(threads) + 1,)))
                threads[-1].start()
        assert command.returncode == 0
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def test_chain_that_is_as_long_as_can_be_is_refused(lab, where):
    device = add(lab, layer(where / "delta", size=SIZE))
    for n in range(15):
        snapshot(device, where / f"snapshot{n}")
    before = untouched(device, where)
    refused(cli.run("snapshot", "-n", device.id, "--to", where / "more", "--json"), "E2BIG", "no more than 16")
    assert untouched(device, where) == before
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
        assert f.read(0, 4096) == pattern(0, 4096)


def test_two_snapshots_at_a_time_follow_one_another(lab, where, delta):
    device = add(lab, delta)
    args = [[cli.COMMAND, "snapshot", "-n", str(device.id), "--to", str(where / f"at-once{n}"), "--json"] for n in range(3)]
    started = [subprocess.Popen(a, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for a in args]
    for process in started:
        out, err = process.communicate(timeout=cli.seconds(60))
        assert process.returncode == 0, err
    assert {str(where / f"at-once{n}") for n in range(3)} <= set(layers_of(device))
    flush(device)


def test_relative_base_must_be_found_from_the_snapshot(lab, where, golden):
    delta = str(where / "delta")
    layer(delta, base=os.path.basename(golden))
    device = add(lab, delta)
    # a name is relative to where the command runs
    cli.ok("snapshot", "-n", device.id, "--to", "relative", preexec=lambda: os.chdir(where))
    assert os.path.exists(where / "relative")
    (where / "elsewhere").mkdir()
    refused(cli.run("snapshot", "-n", device.id, "--to", where / "elsewhere" / "x", "--json"), "EINVAL",
            "its base relative")
    snapshot(device, where / "here")


def test_dead_server_does_not_keep_from_a_snapshot(lab, where, delta):
    device = add(lab, delta)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    path = snapshot(device, where / "of-the-dead")
    assert holds(device.path, data, MIB)
    device.delete()
    device = lab.add("clone", path, read_only=True)
    assert holds(device.path, data, MIB)


