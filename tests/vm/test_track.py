# SPDX-License-Identifier: MIT
"""
Changed-block tracking: what is written since a mark is listed, and little else, whoever serves it, while servers are
killed and replaced; a backup of the listed extents is the device; after an unclean end all counts as changed; and what
cannot be tracked is refused in one line. UBLK_BPF_SEED does a run of the model again, UBLK_BPF_TRACK_OPS makes it longer.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time

import cli
import pytest
import test_json
from blockio import MIB, Opened, pattern
from cli import wait_for
from clones import Model, kill, kill_and_recover, refused, take_over
from lab import sh, sysfs
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face

SIZE = 8 * MIB
BLOCK = 65536
OPS = int(os.environ.get("UBLK_BPF_TRACK_OPS", 400 if cli.FULL else 60))
THREADS = 4


def mark(device, name=None):
    return cli.ok("track", "mark", "-n", device.id, *(["--name", name] if name else []))


def tracked(what, since=None):
    where = ["-n", what.id] if isinstance(what, cli.Device) else [what]
    return cli.ok("track", "list", *where, *(["--since", since] if since else []))


def blocks_of(offset, length):
    return set(range(offset // BLOCK, (offset + length - 1) // BLOCK + 1))


def blocks(listed):
    """Numbers of the blocks that are listed."""
    return {n for e in listed["extents"] for n in blocks_of(e["start"], e["length"])}


def write(device, offset, length=512):
    with Opened(device.path) as f:
        f.write(offset, pattern(offset, length))


@pytest.fixture
def image(lab):
    return lab.file(lab.ext4(96), SIZE, sparse=False)


@pytest.fixture
def track(image):
    return f"{image}.track"


def add(lab, image, **opts):
    return lab.add("loop", image, track=f"{image}.track", **opts)


PROGRAM_OR_SERVER = [pytest.param(True, marks=pytest.mark.face, id="program"), pytest.param(False, id="server")]


@pytest.fixture(params=PROGRAM_OR_SERVER)
def device(lab, image, request):
    """With its program and without one; its first mark is made."""
    device = add(lab, image, r=1, i=1, q=2, no_bpf=not request.param)
    assert has_program(device) == request.param
    mark(device, "first")
    return device


def has_program(device):
    bpf = device.info()["bpf"]
    return bool(bpf and bpf["attached"])


class Log:
    """What a model has changed, and when."""

    def __init__(self, lab, model):
        self.path, self.model, self.changes = lab.tmp / "log", model, []

    def since(self, when):
        """Blocks of what was done after this time."""
        self.model("log", self.path)
        self.changes += [tuple(map(int, line.split())) for line in self.path.read_text().splitlines()]
        return {n for _, done, at, length in self.changes if done > when for n in blocks_of(at, length)}


def replace_program(device):
    device.attach("track", replace=True)


def test_what_is_written_since_a_mark_is_listed(lab, track, device):
    """Whatever happens to its server; and nothing that was done before the mark was begun."""
    model = Model(lab, 512)
    model("expect", track.removesuffix(".track"))
    log = Log(lab, model)
    model("open", device.path)
    events = [kill_and_recover, take_over] + [replace_program] * has_program(device)
    for n in range(len(events) * 2):
        before, after = (events[n // 2], None)[:: -1 if n % 2 else 1]
        model.begin("run", OPS, THREADS)
        if before:
            before(device)
        began = time.monotonic_ns()
        mark(device)
        done = time.monotonic_ns()
        if after:
            after(device)
        model.end()
        listed = tracked(device)
        assert not listed["all-changed"], listed
        must, may = log.since(done), log.since(began)
        missing, more = must - blocks(listed), blocks(listed) - may
        assert not missing and not more, f"UBLK_BPF_SEED={model.seed} {n}: missing {missing}, too many {more}"
    model("verify")
    model("close")
    device.delete()
    saved = tracked(track)
    assert not saved["in-use"] and blocks(saved) == blocks(listed)


def copy(device, listed, to):
    """The listed extents, from the device to the backup."""
    with Opened(device.path, flags=os.O_RDONLY) as source, open(to, "r+b") as f:
        for e in listed["extents"]:
            f.seek(e["start"])
            f.write(source.read(e["start"], e["length"]))


def same(a, b):
    with open(a, "rb") as one, open(b, "rb") as other:
        return one.read() == other.read()


def test_incremental_backup_under_load_is_the_device(lab, track, device):
    model, backup = Model(lab, 512), lab.tmp / "backup"
    model("expect", track.removesuffix(".track"))
    model("open", device.path)
    model.begin("run", OPS, THREADS)
    assert mark(device, "full")["since"]["name"] == "first"
    shutil.copyfile(device.path, backup)
    model.end()
    names, copied = ["full"], []
    for n in range(4):
        model.begin("run", OPS, THREADS)
        names.append(f"round{n}")
        assert mark(device, names[-1])["since"]["name"] == names[-2]
        listed = tracked(device, since=names[-2])
        copied.append(listed["changed-bytes"])
        copy(device, listed, backup)
        model.end()
    copy(device, tracked(device), backup)
    assert max(copied) > 0
    is_same = same(device.path, backup)
    assert is_same  # pytest takes minutes to say how bytes differ
    model("verify")
    model("close")


CHANGES = {
    "part of a block": (lambda f: f.write(BLOCK * 3 + 512, pattern(0, 512)), {3}),
    "two words of the map": (lambda f: f.write(BLOCK * 62, pattern(0, BLOCK * 4)), {62, 63, 64, 65}),
    "discard": (lambda f: f.discard(BLOCK * 5, BLOCK), {5}),
    "zeroes that free": (lambda f: f.punch(BLOCK * 7, 4096), {7}),
    "zeroes that keep": (lambda f: f.zero_range(BLOCK * 9, 4096), {9}),
    "all": (lambda f: f.discard(0, SIZE), set(range(SIZE // BLOCK))),
    "nothing": (lambda f: (f.read(0, MIB), f.flush()), set()),
}


def test_each_kind_of_change_is_listed(device):
    with Opened(device.path) as f:
        for what, (change, expected) in CHANGES.items():
            mark(device)
            change(f)
            assert blocks(tracked(device)) == expected, what
        if has_program(device):
            assert device.counters()["passed"] == 0 and not device.refused()


@pytest.mark.one_face
def test_holes_are_shown_as_zeroes(device):
    with Opened(device.path) as f:
        f.write(0, pattern(0, BLOCK))
        f.punch(BLOCK, BLOCK)
    extents = tracked(device)["extents"]
    assert extents == [{"start": 0, "length": BLOCK, "zero": False, "data": True},
                       {"start": BLOCK, "length": BLOCK, "zero": True, "data": False}]


def test_discard_larger_than_the_program_marks_is_the_servers(lab):
    """Of 64 blocks in a word the program marks eight words."""
    image = lab.file(lab.ext4(96), 64 * MIB)
    device = lab.add("loop", image, track=f"{image}.track", track_block=4096)
    mark(device)
    with Opened(device.path) as f:
        f.discard(0, 64 * MIB)
    assert tracked(device)["changed-bytes"] == 64 * MIB


@pytest.mark.one_face
def test_periods_since_an_earlier_mark_are_together(device):
    for n, name in enumerate(["monday", "tuesday"]):
        mark(device, name)
        write(device, BLOCK * (n + 1))
    assert blocks(tracked(device)) == {2}
    assert blocks(tracked(device, since="tuesday")) == {2}
    assert blocks(tracked(device, since="monday")) == {1, 2}
    assert [m["name"] for m in tracked(device)["marks"]] == ["first", "monday", "tuesday"]


@pytest.mark.one_face
def test_the_last_fifteen_marks_are_kept(device):
    for n in range(20):
        dropped = mark(device, f"m{n}")["dropped"]
        write(device, BLOCK * n)
    assert dropped["name"] == "m4"
    names = [m["name"] for m in tracked(device)["marks"]]
    assert names == [f"m{n}" for n in range(5, 20)]
    assert blocks(tracked(device, since="m5")) == set(range(5, 20))
    assert blocks(tracked(device, since="m18")) == {18, 19}
    refused(cli.run("track", "list", "-n", device.id, "--since", "m4", "--json"), "ENOENT", "m4")


def test_clean_end_keeps_what_was_written(lab, image, track, device):
    write(device, BLOCK * 5)
    bpf = has_program(device)
    cli.ok("stop", "-n", device.id)
    assert not tracked(track)["in-use"] and blocks(tracked(track)) == {5}
    device.delete()
    device = add(lab, image, no_bpf=not bpf)
    write(device, BLOCK * 7)
    listed = tracked(device)
    assert listed["in-use"] and not listed["all-changed"] and blocks(listed) == {5, 7}
    os.kill(device.server_pid(), signal.SIGTERM)
    wait_for("it to be gone", lambda: not device.exists())
    assert blocks(tracked(track)) == {5, 7}


def test_del_of_a_device_without_server_keeps_what_was_written(lab, image, track, device):
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    if has_program(device):
        write(device, BLOCK * 3)
        assert blocks(tracked(device)) == {3}
        mark(device)
        write(device, BLOCK * 4)
    expected = {4} if has_program(device) else set()
    device.delete()
    saved = tracked(track)
    assert not saved["in-use"] and not saved["all-changed"] and blocks(saved) == expected


@pytest.mark.one_face
def test_without_recovery_the_next_device_has_what_the_server_left(lab, image):
    device = add(lab, image, no_bpf=True)
    mark(device)
    write(device, BLOCK * 3)
    kill(device)
    wait_for("the device to be dead", lambda: device.state() == "dead")
    second = add(lab, image, no_bpf=True)
    write(second, BLOCK * 4)
    listed = tracked(second)
    assert not listed["all-changed"] and blocks(listed) == {3, 4}


def crash(device, track):
    """The track file as a crash of the machine would leave it: the map is gone."""
    copy_of = f"{track}.crashed"
    shutil.copy(track, copy_of)
    device.delete()
    os.replace(copy_of, track)


def assert_all_changed(listed, *texts):
    assert listed["all-changed"] and listed["changed-bytes"] == SIZE, listed
    assert blocks(listed) == set(range(SIZE // BLOCK))
    for text in texts:
        assert text in listed["why"], listed


def test_after_a_crash_all_counts_as_changed_until_the_next_mark(lab, image, track, device):
    write(device, BLOCK)
    mark(device, "second")
    bpf = has_program(device)
    crash(device, track)
    assert_all_changed(tracked(track), "has not been ended")
    outcome = cli.run("add", "-t", "loop", "-f", image, "--track", track, "--json", *["--no-bpf"] * (not bpf))
    assert outcome.status == 0 and "has not been ended: until the next mark all counts as changed" in outcome.err
    device = cli.Device(outcome.json)
    lab.cleanup(device.delete)
    assert_all_changed(tracked(device))
    assert_all_changed(tracked(device, since="first"))
    assert mark(device, "third")["all-changed"]
    write(device, BLOCK * 9)
    assert blocks(tracked(device)) == {9}
    assert_all_changed(tracked(device, since="second"), "second")


@pytest.mark.one_face
def test_image_that_somebody_else_wrote_to_counts_as_changed(lab, image, track, device):
    device.delete()
    with open(image, "r+b") as f:
        f.write(b"x")
    assert_all_changed(tracked(track), "written to")
    device = add(lab, image, no_bpf=True)
    assert_all_changed(tracked(device))
    device.delete()
    assert_all_changed(tracked(track))


@pytest.mark.one_face
def test_recover_without_the_map_counts_all_as_changed(lab, image):
    device = add(lab, image, r=1, no_bpf=True)
    mark(device)
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    os.remove(f"/run/ublk-bpf/{device.id}.map")
    assert_all_changed(tracked(device), "is gone")
    outcome = cli.run("recover", "-n", device.id, "--json")
    assert outcome.status == 0 and "all counts as changed" in outcome.err, str(outcome)
    assert_all_changed(tracked(device))
    mark(device)
    assert tracked(device)["extents"] == []


def test_mark_that_is_killed_loses_nothing(lab, device):
    """At whatever point: the marks are the old or the new ones, and what was written since is listed."""
    rounds = 40 if cli.FULL else 8
    for n in range(rounds):
        number = len(tracked(device)["marks"])
        write(device, BLOCK * n % SIZE)
        process = subprocess.Popen([cli.COMMAND, "track", "mark", "-n", str(device.id), "--name", f"n{n}"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(n * 0.05 / rounds)
        process.kill()
        process.wait()
        listed = tracked(device)
        made = any(m["name"] == f"n{n}" for m in listed["marks"])
        assert made or len(listed["marks"]) == number
        if not made:
            assert n in blocks(listed), n
        write(device, BLOCK * 100)
        assert 100 in blocks(tracked(device))
    mark(device)
    assert tracked(device)["extents"] == []


@pytest.mark.face
def test_program_serves_and_marks_without_its_server(lab, device):
    if not has_program(device):
        pytest.skip("of the program only")
    kill(device)
    wait_for("it to wait", lambda: device.state() == "quiesced")
    write(device, BLOCK * 3)
    mark(device)
    write(device, BLOCK * 4)
    assert blocks(tracked(device)) == {4}
    cli.ok("recover", "-n", device.id)
    write(device, BLOCK * 5)
    assert blocks(tracked(device)) == {4, 5}
    assert device.counters()["passed"] == 0


@pytest.mark.face
def test_programs_that_do_not_mark_are_refused(lab, image):
    device = add(lab, image, r=1)
    refused(device.try_attach("loop", replace=True), "EBUSY", "does not mark")
    refused(device.try_attach("loop", replace=True, file=image), "EBUSY", "does not mark")
    refused(cli.run("detach", "--dev", device.id, "--json"), "EBUSY", "goes with its program")
    mark(device)
    device.attach("track", replace=True)
    write(device, BLOCK)
    assert blocks(tracked(device)) == {1}
    other, _ = lab.loop_device(8)
    refused(other.try_attach("track"), "EINVAL", "--track")


@pytest.mark.one_face
def test_marks_wait_for_what_is_in_flight(lab):
    """Of writes that the server has begun: none is done after the mark and not in its period."""
    disk = lab.null_blk(SIZE // MIB, irqmode=2, completion_nsec=1_500_000_000)
    device = lab.add("loop", disk.path, track=lab.ext4(32) / "track", no_bpf=True)
    mark(device)
    done = {}

    def write_one(n):
        write(device, BLOCK * n)
        done[n] = time.monotonic_ns()

    threads = [threading.Thread(target=write_one, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    wait_for("writes in flight", lambda: sysfs(device.path, "inflight").split()[1] == str(THREADS))
    mark(device)
    marked = time.monotonic_ns()
    listed = tracked(device)
    for thread in threads:
        thread.join()
    late = {n for n, when in done.items() if when > marked + 100_000_000}
    assert len(done) == THREADS and late <= blocks(listed)


def bad_add(image, *args):
    return cli.run("add", "-t", "loop", "-f", image, "--no-bpf", *args, "--json")


@pytest.mark.one_face
def test_track_file_of_something_else_is_refused(lab, image, track, device):
    device.delete()
    other = lab.file(os.path.dirname(image), SIZE)
    refused(bad_add(other, "--track", track), "ESTALE", "tracks another image")
    refused(bad_add(image, "--track", track, "--size", "4M"), "EINVAL", track)
    refused(bad_add(image, "--track", track, "--offset", "4096"), "EINVAL", track)
    refused(bad_add(image, "--track", track, "--track-block", "4K"), "EINVAL", "--track-block")
    refused(bad_add(image, "--track", other), "EPROTO", "is not a track file")
    refused(bad_add(image, "--track", os.path.dirname(image)), "EISDIR", os.path.dirname(image))
    assert not cli.devices()


@pytest.mark.one_face
def test_damaged_track_files_are_refused(image, track, device):
    device.delete()
    data = bytearray(open(track, "rb").read())

    def attempt(change, *texts):
        changed = bytearray(data)
        change(changed)
        with open(track, "wb") as f:
            f.write(changed)
        for outcome in (bad_add(image, "--track", track), cli.run("track", "list", track, "--json")):
            refused(outcome, "EPROTO", track, *texts)

    attempt(lambda d: d.__setitem__(8, 2), "version 2")
    attempt(lambda d: d.__setitem__(100, d[100] ^ 1), "checksum")
    attempt(lambda d: d.__delitem__(slice(len(d) - 512, None)), "cut short")
    attempt(lambda d: d.__delitem__(slice(100, None)), "shorter than a header")
    attempt(lambda d: d.__setitem__(8192 + 512, d[8192 + 512] ^ 1), "mark 1")


@pytest.mark.one_face
def test_damaged_bitmap_counts_as_all_changed(lab, image, track, device):
    write(device, BLOCK)
    device.delete()
    with open(track, "r+b") as f:
        f.seek(16384 + 16 * 512)
        f.write(b"\xff")
    assert_all_changed(tracked(track), "damaged")
    assert_all_changed(tracked(add(lab, image, no_bpf=True)))


@pytest.mark.one_face
def test_track_file_in_use_is_refused(image, track, device):
    refused(bad_add(image, "--track", track), "EBUSY", image)
    device.delete()
    with open(track, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(bad_add(image, "--track", track), "EBUSY", f"{track}: is in use")


@pytest.mark.one_face
def test_full_disk_at_a_mark_changes_nothing(lab):
    where = lab.ext4(16)
    track = where / "track"
    # so large that a mark's bitmap has blocks of its own
    device = lab.add("loop", lab.file(lab.ext4(64), 256 * MIB), track=track, track_block=4096)
    mark(device, "first")
    write(device, BLOCK)
    sh("dd", "if=/dev/zero", f"of={where}/full", "bs=4k", check=False)
    refused(cli.run("track", "mark", "-n", device.id, "--name", "second", "--json"), "ENOSPC", str(track))
    listed = tracked(device)
    assert [m["name"] for m in listed["marks"]] == ["first"] and blocks(listed) == {1}
    os.remove(where / "full")
    mark(device, "second")
    assert tracked(device)["extents"] == []


@pytest.mark.one_face
def test_names_of_marks(device):
    mark(device, "monday")
    refused(cli.run("track", "mark", "-n", device.id, "--name", "monday", "--json"), "EEXIST", "monday")
    assert mark(device)["mark"]["name"] == "3"
    for name in ("4", "a b", "x" * 129):
        outcome = cli.run("track", "mark", "-n", device.id, "--name", name, "--json")
        assert outcome.status == 2 and "--name" in outcome.err, str(outcome)
    assert len(tracked(device)["marks"]) == 3


MISUSES = {
    "null": ["-t", "null"],
    "mirror": ["-t", "mirror", "-f", "a", "-f", "b"],
    "clone": ["-t", "clone", "-f", "a"],
    "fault": ["-t", "fault", "--over", "loop", "-f", "a", "--fault", "error=EIO"],
    "read-only": ["-t", "loop", "-f", "a", "--read-only"],
    "shared": ["-t", "loop", "-f", "a", "--shared"],
    "two": ["-t", "loop", "-f", "a", "-f", "b"],
    "block": ["-t", "loop", "-f", "a", "--track-block", "3K"],
}


@pytest.mark.one_face
def test_devices_that_cannot_be_tracked_are_misuse(lab):
    track = lab.tmp / "track"
    for what, args in MISUSES.items():
        outcome = cli.run("add", *args, "--track", track, "--json")
        assert outcome.status == 2 and "--track" in outcome.err, f"{what}: {outcome}"
    assert not track.exists()


@pytest.mark.one_face
def test_devices_that_do_not_track_have_no_marks(lab):
    device, _ = lab.loop_device(8)
    refused(cli.run("track", "mark", "-n", device.id, "--json"), "EINVAL", "does not track")
    refused(cli.run("track", "list", "-n", device.id, "--json"), "EINVAL", "does not track")
    refused(cli.run("track", "list", lab.tmp / "none", "--json"), "ENOENT", "none")
    assert cli.run("track", "list", "--json").status == 2


@pytest.mark.one_face
def test_tracked_device_keeps_its_size(device):
    refused(cli.run("resize", "-n", device.id, "--size", "4M", "--shrink", "--json"), "EOPNOTSUPP", "tracks")


@pytest.mark.one_face
def test_what_it_prints_is_documented(track, device):
    sections = test_json.documented()
    write(device, BLOCK)
    for said, section in ((mark(device), "track mark"), (tracked(device), "track list")):
        wrong = test_json.differences(said, sections[section])
        assert not wrong, "\n".join(wrong)
    assert device.info()["track"] == track
    mark_line = cli.run("track", "mark", "-n", device.id, "--name", "text").out
    assert "mark 'text'" in mark_line and "since '2' 0 bytes" in mark_line
    listed = cli.run("track", "list", "-n", device.id, "--since", "first").out
    assert "mark 'text'" in listed and f"{BLOCK:>14} {BLOCK:>14}  data" in listed


@pytest.mark.one_face
def test_nothing_is_left_in_run(device):
    device.delete()
    assert not [f for f in os.listdir("/run/ublk-bpf") if f.startswith(f"{device.id}.")]
