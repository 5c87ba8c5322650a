# SPDX-License-Identifier: MIT
"""
Clones: random I/O on them gives what the same I/O on memory gives, over layers and bases of all kinds, on each data
path, while servers are killed, taken over and replaced; what was flushed is in the layer; and what cannot be served is
refused in one line. UBLK_BPF_SEED does a run of the model again, UBLK_BPF_CLONE_OPS makes it longer.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal

import cli
import pytest
from blockio import MIB, Opened, assert_same, pattern, random_fill
from cli import wait_for
from clones import OPS, SIZE, THREADS, Model, delta, flush, holds, kill, kill_and_recover, layer, refused, take_over
import test_json
from lab import sh
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

pytestmark = pytest.mark.quick_tests(8)


class Base:
    """What the lowest layer is on, and what a clone of it has at first."""

    def __init__(self, lab, kind):
        self.options, self.bytes = {}, None
        if kind == "none":
            return
        size = SIZE if kind != "short" else SIZE // 2 + 700
        self.bytes = lab.file(lab.tmp, size)
        with open(self.bytes, "wb") as f:
            f.write(os.urandom(size))
        path = self.bytes
        if kind == "disk":
            path = lab.null_blk(SIZE // MIB).path
            sh("dd", f"if={self.bytes}", f"of={path}", "bs=1M", "oflag=direct")
        self.options = {"base": path}


def try_add(lab, file, **opts):
    """The device, unless this kernel lacks the data path."""
    probe = {f["name"] for f in cli.probe()["features"] if f["available"]}
    try:
        return lab.add("clone", file, **opts)
    except AssertionError as e:
        if "this kernel lacks it" in str(e):
            pytest.skip(f"this kernel lacks it; it has {sorted(probe)}")
        raise


# data path and options, block, layers, base
MODELS = {
    "copy": ({"data_path": "copy"}, 4096, 2, "none"),
    "user-copy": ({"data_path": "user-copy"}, 65536, 3, "short"),
    "need-get-data": ({"data_path": "need-get-data", "q": 2}, 4096, 1, "disk"),
    "zero-copy": ({"data_path": "zero-copy", "q": 2}, 65536, 2, "file"),
    "auto-zero-copy": ({"data_path": "auto-zero-copy", "q": 2}, 4096, 12, "short"),
    "batch": ({"b": True, "q": 2}, 65536, 2, "short"),
    "buffered": ({"buffered": True, "q": 2}, 4096, 2, "file"),
}


@pytest.mark.parametrize("which", MODELS)
def test_random_io_is_what_it_is_in_memory(lab, which):
    opts, block, layers, kind = MODELS[which]
    model, base, where = Model(lab, block), Base(lab, kind), lab.ext4(128)
    if base.bytes:
        model("expect", base.bytes)
    below = base.options
    for n in range(layers):
        path = layer(where / f"{n}.layer", size=SIZE, block_size=block, **below)
        below = {"base": path}
        device = try_add(lab, path, r=1, i=1, **opts)
        model("open", device.path)
        model("run", OPS, THREADS)
        # in the middle of it
        happens = [kill_and_recover] if "b" in opts else [kill_and_recover, take_over]
        for event in happens if n % 4 == 0 else []:
            model.begin("run", OPS, THREADS)
            event(device)
            model.end()
        model("close")
        device.delete()
    # as the layers have it
    device = lab.add("clone", path, **opts)
    model("open", device.path)
    model("verify")
    model("run", OPS, THREADS)
    model("verify")
    model("close")


@pytest.fixture
def golden(lab):
    path = lab.file(lab.ext4(64), SIZE, sparse=False)
    return path


def test_writes_that_were_not_flushed_survive_the_server_but_for_recovery(lab, delta):
    """Without -r the device goes with its server; del brings to the layer what its map says."""
    device = lab.add("clone", delta)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    kill(device)
    wait_for("the device to be dead", lambda: device.state() == "dead")
    device.delete()
    device = lab.add("clone", delta)
    with Opened(device.path) as f:
        assert f.read(MIB, len(data)) == data


def test_a_dead_devices_layer_is_whole_for_the_next_device(lab, delta):
    first = lab.add("clone", delta)
    data = pattern(0, 65536)
    with Opened(first.path) as f:
        f.write(MIB, data)
    kill(first)
    wait_for("the device to be dead", lambda: first.state() == "dead")
    second = lab.add("clone", delta)
    with Opened(second.path) as f:
        assert f.read(MIB, len(data)) == data
        f.write(MIB + 512, data)
    second.delete()
    first.delete()


def test_device_that_waits_for_recovery_is_written_out_by_del(lab, delta):
    device = lab.add("clone", delta, r=1)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    device.delete()
    device = lab.add("clone", delta, read_only=True)
    with Opened(device.path, flags=os.O_RDONLY) as f:
        assert f.read(MIB, len(data)) == data


def told_to_end(device):
    if "quiesce" not in cli.ok("features")["features"]:
        pytest.skip("this kernel's ublk_drv has no quiesce: the server ends as if killed")
    os.kill(device.server_pid(), signal.SIGTERM)


CLEAN_ENDS = {
    "stop": lambda device: cli.ok("stop", "-n", device.id),
    "quiesce": lambda device: cli.ok("quiesce", "-n", device.id),
    "takeover": lambda device: cli.ok("takeover", "-n", device.id),
    "sigterm": told_to_end,
}


@pytest.mark.parametrize("how", CLEAN_ENDS)
def test_clean_end_of_a_server_brings_the_map_to_the_layer(lab, delta, how):
    """Without a flush; a copy of the file tells, of which no map knows."""
    device = lab.add("clone", delta, r=1)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    pid = device.server_pid()
    CLEAN_ENDS[how](device)
    wait_for(f"server {pid} to be gone", lambda: not os.path.exists(f"/proc/{pid}"))
    copy = lab.add("clone", shutil.copy(delta, f"{delta}.copy"))
    assert holds(copy.path, data, MIB)


@pytest.mark.parametrize("bpf", [pytest.param(True, marks=pytest.mark.face), False], ids=["program", "server"])
def test_layer_has_what_was_flushed(lab, golden, delta, bpf):
    """As it is on the disk just then: whatever the server has in memory, a copy of the file has it."""
    device = lab.add("clone", delta, q=2, r=1, no_bpf=not bpf)
    model = Model(lab, 4096)
    model("expect", golden)
    for n in range(3):
        model("open", device.path)
        model("run", OPS, THREADS)
        flush(device)
        model("close")
        copy = shutil.copy(delta, f"{delta}.copy{n}")
        other = lab.add("clone", copy)
        model("open", other.path)
        model("verify")
        model("close")
        other.delete()


@pytest.mark.face
def test_flush_saves_what_only_the_program_has_made_present(lab, delta):
    device = lab.add("clone", delta, r=1)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
        f.flush()
    copy = lab.add("clone", shutil.copy(delta, f"{delta}.copy"))
    with Opened(copy.path) as f:
        is_there = f.read(MIB, len(data)) == data
    assert is_there  # pytest takes minutes to say how bytes differ


def test_base_is_never_written(lab, golden, delta):
    before = lab.file(lab.tmp, SIZE)
    shutil.copy(golden, before)
    device = lab.add("clone", delta)
    random_fill(device.path, SIZE)
    with Opened(device.path) as f:
        f.discard(0, SIZE)
        f.flush()
        assert f.read(0, MIB) == bytes(MIB)
    device.delete()
    assert_same(golden, before, SIZE)


def test_file_system_on_a_clone_of_one(lab):
    where = lab.ext4(160)
    golden = lab.file(where, 32 * MIB)
    sh("mkfs.ext4", "-q", "-F", golden)
    delta = layer(f"{golden}.delta", base=golden, block_size=65536)
    device = lab.add("clone", delta, r=1, i=1)
    mount = lab.mount(device.path)
    for n in range(20):
        (mount / f"file{n}").write_bytes(os.urandom(200000))
    wrote = {p.name: p.read_bytes() for p in mount.iterdir() if p.is_file()}
    kill_and_recover(device)
    sh("fstrim", mount)
    take_over(device)
    lab.umount(mount)
    sh("e2fsck", "-f", "-n", device.path)
    device.delete()
    device = lab.add("clone", delta)
    sh("e2fsck", "-f", "-n", device.path)
    mount = lab.mount(device.path)
    assert {p.name: p.read_bytes() for p in mount.iterdir() if p.is_file()} == wrote
    lab.umount(mount)


def test_full_file_system_fails_the_write_and_no_more(lab):
    where = lab.ext4(24)
    delta = layer(where / "delta", size=64 * MIB)
    device = lab.add("clone", delta)
    with Opened(device.path) as f:
        with pytest.raises(OSError) as caught:
            for n in range(64):
                f.write(n * MIB, pattern(n * MIB, MIB))
        assert caught.value.errno == errno.ENOSPC
        f.discard(0, 16 * MIB)
        f.write(0, pattern(0, MIB, seed=2))
        f.flush()
        assert f.read(0, MIB) == pattern(0, MIB, seed=2)
    assert device.state() == "live"


def passed(device):
    return device.counters()["passed"]


@pytest.mark.face
def test_hits_and_whole_blocks_wake_nobody(lab, golden, delta):
    device = lab.add("clone", delta, r=1)
    expected = bytearray(open(golden, "rb").read())
    before = passed(device)
    with Opened(device.path) as f:

        def write(at, size):
            expected[at:at + size] = pattern(at, size, seed=size)
            f.write(at, pattern(at, size, seed=size))

        write(MIB, 65536)  # first, whole blocks
        write(MIB + 512, 1024)  # a hit
        write(2 * MIB + 4096, 4096)
        f.discard(MIB + 8192, 4096)
        expected[MIB + 8192:MIB + 12288] = bytes(4096)
        assert f.read(0, SIZE // 2) == expected[:SIZE // 2]  # more than eight extents
        assert passed(device) == before
        f.flush()  # has bits to save
        assert passed(device) == before + 1
        f.flush()
        assert passed(device) == before + 1
        write(3 * MIB + 512, 512)  # a part of a block that is not there
        assert passed(device) == before + 2
        write(3 * MIB, 4096)
        assert passed(device) == before + 2
        assert f.read(0, SIZE // 2) == expected[:SIZE // 2]
    assert not device.refused()


@pytest.mark.face
def test_program_makes_blocks_present_without_a_server(lab, delta):
    """What it has marked meanwhile is the next server's, or is brought to the layer by del."""
    device = lab.add("clone", delta, r=1)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
        assert f.read(MIB, len(data)) == data
    cli.ok("recover", "-n", device.id)
    with Opened(device.path) as f:
        f.write(2 * MIB + 512, data)
        assert f.read(MIB, len(data)) == data
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    with Opened(device.path) as f:
        f.write(3 * MIB, data)
    device.delete()
    device = lab.add("clone", delta, no_bpf=True)
    with Opened(device.path) as f:
        for at in (MIB, 2 * MIB + 512, 3 * MIB):
            assert f.read(at, len(data)) == data, at


@pytest.mark.parametrize("bpf", [pytest.param(True, marks=pytest.mark.face), False], ids=["program", "server"])
def test_layer_of_a_device_without_server_is_not_sealed(lab, golden, delta, bpf):
    """Nobody has its lock; it has blocks that the file lacks, and with a program it is written."""
    device = lab.add("clone", delta, r=1, no_bpf=not bpf)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    for args in (["create", f"{golden}.second", "--base", delta], ["check", delta, "--repair"]):
        refused(cli.run("layer", *args, "--json"), "EBUSY", delta, f"ublk-bpf del -n {device.id} first")
    cli.ok("recover", "-n", device.id)
    with Opened(device.path) as f:
        assert f.read(MIB, len(data)) == data


@pytest.mark.face
def test_map_that_cannot_be_written_out_is_kept_for_the_next_del(lab, delta):
    """A lock that somebody else has stands for all that may be wrong with the file."""
    device = lab.add("clone", delta, r=1)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(MIB, data)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    with open(delta, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        refused(cli.run("del", "-n", device.id, "--json"), "EBUSY", "its map could not be written")
    device.delete()
    device = lab.add("clone", delta)
    with Opened(device.path) as f:
        assert f.read(MIB, len(data)) == data


def program(device):
    """The attached one, and the ids of the device's own maps."""
    with open(f"/run/ublk-bpf/{device.id}.json", encoding="utf-8") as f:
        maps = json.load(f)["clone_maps"]
    return device.info()["bpf"]["prog_id"], [maps["bits"], maps["shared"]]


def are_there(ids, kind="map"):
    return [sh("bpftool", kind, "show", "id", i, check=False).returncode == 0 for i in ids]


def bytes_at(file, at, size):
    with open(file, "rb") as f:
        f.seek(at)
        return f.read(size)


@pytest.mark.face
def test_clones_have_one_program_in_common(lab, golden, delta):
    """Each with its own maps, which go with it, while the others are served."""
    devices = [lab.add("clone", path, r=1) for path in (delta, layer(f"{golden}.second", base=golden), layer(f"{golden}.alone", size=2 * SIZE))]
    (first, one), (second, two), (third, three) = map(program, devices)
    assert first == second == third and len({*one, *two, *three}) == 6
    for at, device in enumerate(devices):
        with Opened(device.path) as f:
            f.write(at * MIB, pattern(at, 65536))
    devices[1].delete()
    assert are_there(one + two + three) == [True, True, False, False, True, True]
    for at in (0, 2):
        with Opened(devices[at].path) as f:
            assert f.read(at * MIB, 65536) == pattern(at, 65536)
            assert f.read(MIB, 65536) == (bytes_at(golden, MIB, 65536) if at == 0 else bytes(65536))
    # A number that comes back has nothing of who had it.
    device = lab.add("clone", layer(f"{golden}.fourth", base=golden), r=1, n=devices[1].id)
    assert program(device)[0] == first
    with Opened(device.path) as f:
        assert f.read(MIB, 65536) == bytes_at(golden, MIB, 65536)
    for each in (devices[0], devices[2], device):
        each.delete()
    wait_for("the program to be gone", lambda: are_there([first], "prog") == [False])


@pytest.mark.face
def test_snapshots_change_between_two_programs(lab, golden, delta):
    """Files and entries change in one step, so the new ones are in another program; its neighbour keeps the first."""
    device, other = lab.add("clone", delta, r=1), lab.add("clone", layer(f"{golden}.second", base=golden), r=1)
    seen, maps = [], []
    for n in range(4):
        with Opened(device.path) as f:
            f.write(n * 65536, pattern(n, 65536))
        prog_id, mine = program(device)
        seen.append(prog_id)
        maps.append(mine)
        cli.ok("snapshot", "-n", device.id, "--to", f"{delta}.{n}")
        assert are_there(mine) == [False, False]
    assert seen[0] == seen[2] == program(other)[0] and seen[0] not in (seen[1], seen[3]), seen
    with Opened(device.path) as f:
        for n in range(4):
            assert f.read(n * 65536, 65536) == pattern(n, 65536)
    with Opened(other.path) as f:
        assert f.read(0, 65536) == bytes_at(golden, 0, 65536)


@pytest.mark.face
def test_map_goes_with_its_device_when_that_is_stopped(lab, golden, delta):
    """Another clone has the program. A layer that is put back to what it was meanwhile stays so."""
    other = lab.add("clone", layer(f"{golden}.second", base=golden), r=1)
    shutil.copyfile(delta, f"{golden}.kept")
    device = lab.add("clone", delta, r=1)
    prog_id, maps = program(device)
    with Opened(device.path) as f:
        f.write(MIB, pattern(MIB, 65536))
    cli.ok("stop", "-n", device.id)
    assert are_there(maps) == [False, False] and program(other)[0] == prog_id
    sh("dd", f"if={golden}.kept", f"of={delta}", "bs=1M", "conv=notrunc,fsync")
    device.delete()
    with Opened(lab.add("clone", delta, r=1).path) as f:
        assert f.read(MIB, 65536) == bytes_at(golden, MIB, 65536)


@pytest.mark.face
def test_gc_takes_the_maps_of_a_lost_device_out_of_the_program(lab, golden, delta):
    """One that was deleted when nobody knew any more that it is a clone."""
    device, other = lab.add("clone", delta, r=1), lab.add("clone", layer(f"{golden}.second", base=golden), r=1)
    prog_id, maps = program(device)
    os.unlink(f"/run/ublk-bpf/{device.id}.json")
    cli.ok("del", "-n", device.id, "--force")
    assert are_there(maps) == [True, True]
    (orphan,) = [o for o in cli.ok("gc", "--dry-run")["orphans"] if o["kind"] == "maps"]
    assert (orphan["dev_id"], orphan["cleared"]) == (device.id, True) and f"program {prog_id} has them" in orphan["why"]
    assert are_there(maps) == [True, True]
    assert f"maps of ublkb{device.id}: " in cli.run("gc").out
    assert are_there(maps) == [False, False]
    assert are_there(program(other)[1]) == [True, True]


@pytest.mark.face
def test_program_goes_on_with_its_layer_only(lab, golden, delta):
    device = lab.add("clone", delta, r=1)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    refused(cli.run("recover", "-n", device.id, "--changed-file", "--json"), "EBUSY", "--changed-file")
    cli.ok("recover", "-n", device.id)


@pytest.mark.face
def test_program_of_a_clone_stays(lab, delta):
    """Without it its map would be gone."""
    device = lab.add("clone", delta, r=1)
    refused(device.try_attach("loop", replace=True), "EBUSY", "whose server has attached its program")
    refused(cli.run("detach", "--dev", device.id, "--json"), "EBUSY", "its map goes with its program")
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
        assert f.read(0, 4096) == pattern(0, 4096)


def try_clone(path, *args):
    return cli.run("add", "-t", "clone", "-f", path, *args, "--json")


def test_layer_in_use_is_refused(lab, golden, delta):
    lab.add("clone", delta)
    refused(try_clone(delta), "EBUSY", delta)
    refused(try_clone(delta, "--shared"), "EBUSY", delta)
    refused(try_clone(delta, "-f", delta), "EBUSY", delta)
    refused(cli.run("add", "-t", "loop", "-f", delta, "--json"), "EBUSY", delta)
    # what is below one may be below others, but is not written
    before = os.stat(golden).st_mtime_ns
    refused(cli.run("add", "-t", "loop", "-f", golden, "--json"), "EBUSY", golden)
    assert os.stat(golden).st_mtime_ns == before, "what was refused has changed it, by which it is known"
    lab.add("clone", layer(f"{golden}.other", base=golden))
    lab.add("loop", golden, read_only=True)


def test_base_that_is_written_is_refused(lab):
    disk = lab.null_blk(SIZE // MIB).path
    delta = layer(lab.ext4(64) / "delta", base=disk)
    lab.add("loop", disk)
    refused(try_clone(delta), "EBUSY", disk)


def test_base_that_has_changed_is_refused(lab, golden, delta):
    with Opened(golden) as f:
        f.write(0, pattern(0, 4096))
    refused(try_clone(delta), "ESTALE", golden)


def test_another_layer_of_that_name_is_refused_by_recover(lab, golden, delta):
    device = lab.add("clone", delta, r=1)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    os.rename(delta, f"{delta}.away")
    layer(delta, base=golden)
    refused(cli.run("recover", "-n", device.id, "--json"), "ESTALE", delta)
    os.rename(f"{delta}.away", delta)
    cli.ok("recover", "-n", device.id)


def test_lost_map_is_said_by_recover(lab, delta):
    device = lab.add("clone", delta, r=1, no_bpf=True)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    os.remove(f"/run/ublk-bpf/{device.id}.map")
    refused(cli.run("recover", "-n", device.id, "--json"), "ENOENT", f"{device.id}.map")


def test_sealed_layer_is_served_read_only(lab, golden, delta):
    layer(f"{golden}.second", base=delta)
    refused(try_clone(delta), "EROFS", delta)
    devices = [lab.add("clone", delta, read_only=True) for _ in range(2)]
    for device in devices:
        assert_same(device.path, golden, SIZE)


def test_options_that_do_not_fit_are_refused(lab, delta):
    refused(try_clone(delta, "--offset", "4096"), "EINVAL")
    refused(try_clone(delta, "--size", "1M"), "EINVAL")
    device = lab.add("clone", delta)
    refused(cli.run("resize", "-n", device.id, "--size", "1M", "--shrink", "--json"), "EINVAL", "added without recovery")


@pytest.mark.face
def test_program_of_another_target_is_refused(lab, golden, delta):
    device = lab.add("clone", delta)
    refused(device.try_attach("loop"), "EINVAL", "clone")
    other = lab.null_blk(SIZE // MIB)
    device.attach("loop", file=other.path)
    device.detach()


def test_its_layers_are_shown(lab, golden, delta):
    layer(f"{golden}.second", base=delta)
    device = lab.add("clone", f"{golden}.second")
    layers = device.info()["layers"]
    assert [one["path"] for one in layers] == [f"{golden}.second", delta, golden]
    assert layers[0]["uuid"] and layers[1]["uuid"] and layers[2]["uuid"] is None
    with Opened(device.path) as f:
        f.write(4096 + 512, pattern(0, 8192))
    sections, info = test_json.documented(), cli.ok("info", "-n", device.id)
    wrong = test_json.differences(info, {**test_json.device_rows(sections), **sections["info"]})
    assert not wrong, "\n".join(wrong)
    use = info["layers"]
    assert [one["present_blocks"] for one in use] == [3, 0, None]
    assert use[0]["nr_blocks"] == SIZE // 4096 and use[0]["block_bytes"] == 4096


def test_nothing_is_left_in_run(lab, delta):
    device = lab.add("clone", delta)
    path = f"/run/ublk-bpf/{device.id}.map"
    assert os.path.exists(path)
    device.delete()
    assert not os.path.exists(path)
    with open(path, "wb"):
        pass
    orphans = cli.ok("gc")["orphans"]
    assert any(one["file"] == os.path.basename(path) and one["cleared"] for one in orphans), orphans
    assert not os.path.exists(path)
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
