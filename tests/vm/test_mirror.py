# SPDX-License-Identifier: MIT
"""mirror: both legs have what was written, one that lacks something is not read again; by its server and by its program."""

import errno
import os

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, fio, fio_verify, pattern
from cli import wait_for
from lab import sysfs
from test_complete import bad_blocks, repaired
from test_kill import Background, kill_server, quiesced
from test_order import flushes

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face

SIZE = 4 * MIB
LEN = 16384
# of regions that the program reads from leg 0 and from leg 1
AT = [2 * MIB + 65536, 3 * MIB + 65536]


def full(*values):
    """The same again by another way: what is quick leaves it out."""
    return pytest.param(*values, marks=pytest.mark.full)


BY_AND_LEG = pytest.mark.parametrize("by, leg", [full("server", 0), ("server", 1), ("bios", 0), ("bios", 1), full("requests", 1)])
BY = pytest.mark.parametrize("by", ["server", "bios", full("requests")])
PROGRAM = pytest.mark.parametrize("by", ["bios", full("requests")])


class Mirror:
    """A device over two disks with the same content, served by its program too unless `by` is "server"."""

    def __init__(self, lab, by="bios", **opts):
        self.disks = [lab.null_blk(4) for _ in range(2)]
        self.paths = [d.path for d in self.disks]
        for path in self.paths:
            with Opened(path) as f:
                for at in range(0, SIZE, MIB):
                    f.write(at, pattern(at, MIB))
        self.device = lab.add("mirror", self.paths, **opts)
        self.by = by
        if by != "server":
            self.attach()
        self.opened = Opened(self.device.path)
        lab.cleanup(self.opened.__exit__)

    def attach(self, **opts):
        return self.device.attach("mirror", requests=self.by == "requests", **opts)

    def failed(self):
        return self.device.info()["failed_legs"]

    def write_fails_on(self, leg):
        """A write that this leg lacks, which then would show what was there before it."""
        at = AT[leg]
        bad_blocks(self.disks[leg], at, LEN)
        self.opened.write(at, pattern(at, LEN, seed=2))
        repaired(self.disks[leg], at, LEN)
        assert self.on(leg, at) == pattern(at, LEN) and self.on(1 - leg, at) == pattern(at, LEN, seed=2)

    def on(self, leg, at):
        with Opened(self.paths[leg]) as f:
            return f.read(at, LEN)

    def never_stale(self, leg):
        for _ in range(4):
            assert self.opened.read(AT[leg], LEN) == pattern(AT[leg], LEN, seed=2), "what was written is not read"

    def reads(self):
        """Reads that each disk has completed."""
        return [int(sysfs(p, "stat").split()[0]) for p in self.paths]


def fails(submit, *args):
    with pytest.raises(OSError) as caught:
        submit(*args)
    return errno.errorcode[caught.value.errno]


@BY
def test_what_is_written_is_on_both_legs(lab, by):
    mirror = Mirror(lab, by, q=2)
    device = mirror.device
    assert device.info()["files"] == mirror.paths and mirror.failed() == []
    fio_verify(device.path, bsrange="4k-64k", iodepth=16, size=SIZE, io_size=MIB, serialize_overlap=1)
    assert_same(*mirror.paths, SIZE)
    assert_same(device.path, mirror.paths[0], SIZE)
    if by != "server":
        counters = device.counters()
        assert counters["redirected"] > 0 and counters["passed"] == counters["passed_late"] == counters["rounds"] == counters["retries"] == 0


def test_reads_of_the_program_go_to_both_legs(lab):
    mirror = Mirror(lab)
    before = mirror.reads()
    fio(mirror.device.path, rw="read", bs="16k", size=SIZE)
    a, b = (now - then for now, then in zip(mirror.reads(), before))
    assert min(a, b) >= 64, f"{a} and {b}"


@BY_AND_LEG
def test_read_that_fails_is_done_on_the_other_leg_and_no_leg_is_given_up(lab, by, leg):
    mirror = Mirror(lab, by)
    for at in range(0, SIZE, MIB):
        bad_blocks(mirror.disks[leg], at + 8192, 4096)
    for at in range(0, SIZE, MIB):
        assert mirror.opened.read(at, 65536) == pattern(at, 65536)
    assert mirror.failed() == []
    if by != "server":
        counters = mirror.device.counters()
        assert counters["rounds"] >= counters["retries"] >= 2 and counters["failed"] == counters["passed_late"] == 0


@BY_AND_LEG
def test_leg_that_a_write_has_failed_on_is_not_used_any_more(lab, by, leg):
    mirror = Mirror(lab, by)
    mirror.write_fails_on(leg)
    assert mirror.failed() == [leg]
    assert "(failed)" in cli.run("list", "-n", mirror.device.id).out
    mirror.never_stale(leg)
    # nor is it written
    mirror.opened.write(0, pattern(0, LEN, seed=3))
    mirror.opened.flush()
    assert mirror.on(leg, 0) == pattern(0, LEN) and mirror.on(1 - leg, 0) == pattern(0, LEN, seed=3)
    before = mirror.reads()
    fio(mirror.device.path, rw="randread", bs="4k", iodepth=16, size=SIZE, io_size=MIB)
    fio_verify(mirror.device.path, bs="4k", iodepth=16, offset=MIB, size=MIB)
    assert mirror.reads()[leg] == before[leg]
    # what fails on the other one fails, and that one stays
    bad_blocks(mirror.disks[1 - leg], MIB, 4096)
    assert fails(mirror.opened.read, MIB, LEN) == fails(mirror.opened.write, MIB, pattern(MIB, LEN)) == "EIO"
    assert mirror.failed() == [leg]
    mirror.opened.write(0, pattern(0, LEN))


@BY
def test_what_fails_on_both_legs_fails_and_neither_is_given_up(lab, by):
    mirror, at = Mirror(lab, by), AT[1]
    for disk in mirror.disks:
        bad_blocks(disk, at, LEN)
    assert fails(mirror.opened.read, at, LEN) == fails(mirror.opened.write, at, pattern(at, LEN)) == "EIO"
    assert mirror.failed() == []
    for disk in mirror.disks:
        repaired(disk, at, LEN)
    mirror.opened.write(at, pattern(at, LEN, seed=2))
    assert mirror.on(0, at) == mirror.on(1, at) == pattern(at, LEN, seed=2)


@BY
def test_failed_leg_stays_one_after_death_recovery_and_takeover(lab, by):
    mirror = Mirror(lab, by, r=1)
    mirror.write_fails_on(1)
    kill_server(mirror.device)
    quiesced(mirror.device)
    if by != "server":
        mirror.never_stale(1)  # without a server
    for command in ("recover", "takeover"):
        cli.ok(command, "-n", mirror.device.id)
        assert mirror.failed() == [1]
        mirror.never_stale(1)
        if by != "server":
            mirror.attach(replace=True)
            mirror.never_stale(1)
            mirror.device.detach()
            mirror.never_stale(1)
            mirror.attach()
            mirror.never_stale(1)
    assert mirror.failed() == [1]


@PROGRAM
@pytest.mark.parametrize("reissue", [0, 1])
def test_write_that_fails_while_there_is_no_server_waits_for_the_next(lab, by, reissue):
    mirror, at = Mirror(lab, by, r=1, i=reissue), AT[1]
    kill_server(mirror.device)
    quiesced(mirror.device)
    bad_blocks(mirror.disks[1], at, LEN)
    writing = Background(mirror.opened.write, at, pattern(at, LEN, seed=2))
    wait_for("it to be passed", lambda: mirror.device.counters()["passed_late"] >= 1)
    # others go on, and those that touch it are on both legs or fail over
    mirror.opened.write(0, pattern(0, LEN, seed=3))
    assert mirror.opened.read(0, LEN) == pattern(0, LEN, seed=3)
    assert not writing.done() and mirror.failed() == []
    cli.ok("recover", "-n", mirror.device.id)
    writing.join()
    repaired(mirror.disks[1], at, LEN)
    assert mirror.failed() == [1] and mirror.on(1, at) == pattern(at, LEN)
    mirror.never_stale(1)


def test_server_that_dies_before_it_has_written_to_the_other_leg(lab):
    """Its successor does the write again, on both legs."""
    at = AT[1]
    first, second = (lab.null_blk(8).path for _ in range(2))
    slow = lab.add("fault", second, over="loop", fault="op=write,delay=1s")
    device = lab.add("mirror", [first, slow.path], r=1, i=1)
    with Opened(device.path) as f, Opened(first) as a, Opened(second) as b:
        writing = Background(f.write, at, pattern(at, LEN, seed=2))
        wait_for("the first leg to have it", lambda: a.read(at, LEN) == pattern(at, LEN, seed=2))
        kill_server(device)
        quiesced(device)
        cli.ok("recover", "-n", device.id)
        writing.join()
        assert b.read(at, LEN) == pattern(at, LEN, seed=2) and device.info()["failed_legs"] == []


def test_mirror_is_served_without_the_disk_that_has_failed(lab):
    at = AT[0]
    good, bad = lab.null_blk(8), lab.null_blk(8)
    leg = lab.add("fault", bad.path, over="loop", fault="op=write,error=EIO")
    device = lab.add("mirror", [leg.path, good.path], r=1)
    device.attach("mirror")
    with Opened(device.path) as f:
        f.write(at, pattern(at, LEN, seed=2))
        assert device.info()["failed_legs"] == [0]
        kill_server(device)
        quiesced(device)
        device.detach()
        leg.delete()
        cli.ok("recover", "-n", device.id)
        assert f.read(at, LEN) == pattern(at, LEN, seed=2)
        attached = device.attach("mirror")
        assert attached["bpf"]["files"] == [good.path] * 2
        assert f.read(at, LEN) == pattern(at, LEN, seed=2)
        f.write(0, pattern(0, LEN))
        f.flush()
        with Opened(good.path) as g:
            assert g.read(0, LEN) == pattern(0, LEN)


@BY
def test_flush_and_discard_reach_both_legs(lab, by):
    disks = [lab.null_blk(8, cache_size=4) for _ in range(2)]
    device = lab.add("mirror", [d.path for d in disks])
    where = lab.ext4(96)
    files = [lab.file(where, SIZE, sparse=False) for _ in range(2)]
    over_files = lab.add("mirror", files)
    if by != "server":
        for each in (device, over_files):
            each.attach("mirror", requests=by == "requests")
    with Opened(device.path) as f:
        f.write(0, pattern(0, LEN))
        before = [flushes(d.path) for d in disks]
        f.flush()
        assert all(now > then for now, then in zip([flushes(d.path) for d in disks], before))
    with Opened(over_files.path) as f:
        f.write(0, pattern(0, MIB))
        f.discard(0, 8192)
        f.zero_range(65536, 8192)
        want = bytes(8192) + pattern(8192, 65536 - 8192) + bytes(8192)
        assert f.read(0, len(want)) == want
    for file in files:
        with Opened(file) as f:
            assert f.read(0, len(want)) == want
    assert over_files.info()["failed_legs"] == []


def test_other_programs_are_refused_on_a_mirror_and_its_own_elsewhere(lab):
    mirror = Mirror(lab, "server")
    refused = mirror.device.try_attach("loop")
    assert refused.status == 1 and "its legs would differ" in refused.err, str(refused)
    other = lab.null_blk(8)
    mirror.device.attach("loop", file=other.path)
    mirror.device.detach()
    device, disk = lab.loop_device(8)
    refused = device.try_attach("mirror", file=[disk, other.path])
    assert refused.status == 1 and "add -t mirror" in refused.err, str(refused)
    for files in (["-f", disk], ["-f", other.path, "-f", other.path], ["-f", other.path, "-f", disk, "-f", disk]):
        outcome = cli.run("add", "-t", "mirror", *files)
        assert outcome.status, str(outcome)
    assert "are one file" in cli.run("add", "-t", "mirror", "-f", other.path, "-f", other.path).err


def test_size_is_that_of_the_smaller_leg_and_grows(lab):
    where = lab.ext4(96)
    files = [lab.file(where, 4 * MIB), lab.file(where, 8 * MIB)]
    device = lab.add("mirror", files)
    assert device.size == 4 * MIB
    os.truncate(files[0], 6 * MIB)
    assert cli.ok("resize", "-n", device.id)["size_bytes"] == 6 * MIB


@BY
def test_nothing_is_lost_or_stale_when_a_leg_fails_under_load(lab, by):
    mirror = Mirror(lab, by, r=1, i=1, q=2)
    device = mirror.device
    with Load(device.path, offset=0, size="2m", io_size="1m", bsrange="4k-16k", iodepth=16) as load:
        def a_round():
            rounds = load.rounds
            wait_for("a round of I/O", lambda: load.error or load.rounds > rounds, 120)
            load.check()

        a_round()
        for at in range(0, 2 * MIB, 256 << 10):
            bad_blocks(mirror.disks[0], at, 4096)
        wait_for("the leg to fail", lambda: mirror.failed() == [0], 120)
        a_round()
        for at in range(0, 2 * MIB, 256 << 10):
            repaired(mirror.disks[0], at, 4096)
        cli.ok("takeover", "-n", device.id)
        kill_server(device)
        quiesced(device)
        cli.ok("recover", "-n", device.id)
        a_round()
    assert mirror.failed() == [0]
    assert_same(device.path, mirror.paths[1], SIZE)


@pytest.mark.full
@PROGRAM
def test_legs_fail_again_and_again_under_load(lab, by):
    for round_ in range(8):
        mirror = Mirror(lab, by, r=1, i=1, q=2)
        leg = round_ % 2
        with Load(mirror.device.path, offset=0, size="2m", io_size="1m", bsrange="4k-32k", iodepth=32) as load:
            wait_for("I/O", lambda load=load: load.error or load.rounds, 120)
            bad_blocks(mirror.disks[leg], (round_ * 256) << 10, 8192)
            if round_ % 4 >= 2:
                kill_server(mirror.device)
                quiesced(mirror.device)
                cli.ok("recover", "-n", mirror.device.id)
            wait_for("the leg to fail", lambda m=mirror, n=leg: m.failed() == [n], 60)
            load.check()
        assert_same(mirror.device.path, mirror.paths[1 - leg], SIZE)
        mirror.device.delete()
