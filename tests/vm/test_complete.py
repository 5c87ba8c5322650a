# SPDX-License-Identifier: MIT
"""The completion program is told what became of a plan, and what it returns is what becomes of the request."""

import errno
import os

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, fio, fio_verify, pattern, random_fill
from bpfmaps import variables
from lab import sh
from test_kill import Background, kill_server, quiesced

READ, WRITE, FLUSH, DISCARD = range(4)
AT, LEN = 65536, 16384
MARK = 0x1234567800000000
AS_IT_IS = 1000
MAX_ROUNDS = 16
# how the program sees READ and WRITE
BIOS = pytest.mark.parametrize("requests", [False, True], ids=["bios", "requests"])


def bad_blocks(disk, offset, length):
    """Reads and writes of these bytes of a null_blk fail from now on."""
    (disk.dir / "badblocks").write_text(f"+{offset // 512}-{(offset + length) // 512 - 1}")


def repaired(disk, offset, length):
    (disk.dir / "badblocks").write_text(f"-{offset // 512}-{(offset + length) // 512 - 1}")


def submit(f, op):
    if op == READ:
        return f.read(AT, LEN)
    if op == WRITE:
        return f.write(AT, pattern(AT, LEN, seed=2))
    return f.flush() if op == FLUSH else f.discard(AT, LEN)


def fails(f, op):
    with pytest.raises(OSError) as caught:
        submit(f, op)
    return errno.errorcode[caught.value.errno]


def last(device):
    """What the program has noted, of the last request that it was asked about."""
    return variables(device.info()["bpf"]["complete_id"])["last"]


class Target:
    """A device over a disk, or a file, full of a pattern; opened."""

    def __init__(self, lab, target="loop", file=None, **opts):
        self.disk = None if file else lab.null_blk(8)
        self.path = file or self.disk.path
        with Opened(self.path) as f:
            f.write(0, pattern(0, MIB))
        self.device = lab.add(target, self.path, **opts)
        self.opened = Opened(self.device.path)
        lab.cleanup(self.opened.__exit__)

    def attach(self, op, verdict, requests=False, **knobs):
        attached = self.device.info()["bpf"]["attached"]
        return self.device.attach(
            "complete", {"op": op, "verdict": verdict, **knobs}, requests=requests, replace=attached
        )["bpf"]


@pytest.fixture
def target(lab):
    return Target(lab)


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE, FLUSH, DISCARD], ids=["read", "write", "flush", "discard"])
def test_completion_program_is_told_of_what_has_succeeded(lab, op, requests):
    # of a file: null_blk cannot punch holes
    target = Target(lab, file=lab.ext4_file(8))
    bpf = target.attach(op, AS_IT_IS, requests)
    assert bpf["complete_id"] not in (None, bpf["prog_id"])
    assert ("complete" in bpf["flags"], "requests" in bpf["flags"]) == (True, requests)
    if op == FLUSH:
        submit(target.opened, WRITE)
    submit(target.opened, op)
    told = last(target.device)
    assert told["runs"] >= 1
    ctx = told["ctx"]
    assert (ctx["op"], ctx["round"], ctx["result"], ctx["failed"]) == (op, 1, 0, 0)
    assert (ctx["dev_id"], ctx["nr_files"]) == (target.device.id, 1)
    if op != FLUSH:
        assert (ctx["start_sector"], ctx["nr_sectors"]) == (AT // 512, LEN // 512)
    assert ctx["user_data"] == (MARK if op <= WRITE else 0)
    no_tag = {ctx["q_id"], ctx["tag"]} == {0xFFFF}
    assert no_tag == (op <= WRITE and not requests), f"q_id {ctx['q_id']:#x} tag {ctx['tag']:#x}"


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE], ids=["read", "write"])
def test_completion_program_is_told_of_what_has_failed(target, op, requests):
    target.attach(op, AS_IT_IS, requests)
    bad_blocks(target.disk, AT, 4096)
    assert fails(target.opened, op) == "EIO"
    ctx = last(target.device)["ctx"]
    assert (ctx["result"], ctx["failed"], ctx["round"]) == (-errno.EIO, 1, 1)
    assert target.device.counters()["failed"] >= 1


@BIOS
@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "ETIMEDOUT", "EREMOTEIO"])
@pytest.mark.parametrize("op", [READ, WRITE, FLUSH], ids=["read", "write", "flush"])
def test_request_completes_with_what_the_program_returns(target, op, code, requests):
    target.attach(op, -getattr(errno, code), requests)
    if op == FLUSH:
        submit(target.opened, WRITE)
    assert fails(target.opened, op) == code
    with Opened(target.path) as d:
        wrote = op in (WRITE, FLUSH)
        assert d.read(AT, LEN) == pattern(AT, LEN, seed=2 if wrote else 1), "the plan was executed all the same"


@BIOS
def test_read_that_is_made_a_success_shows_zeroes_where_it_has_failed(target, requests):
    target.attach(READ, 0, requests)
    bad_blocks(target.disk, AT, LEN)
    assert submit(target.opened, READ) == bytes(LEN)


@BIOS
def test_write_that_is_made_a_success_is_one(target, requests):
    target.attach(WRITE, 0, requests)
    bad_blocks(target.disk, AT, LEN)
    submit(target.opened, WRITE)
    repaired(target.disk, AT, LEN)
    with Opened(target.path) as d:
        assert d.read(AT, LEN) == pattern(AT, LEN), "it was not done"


# DROP, and numbers that mean nothing
@pytest.mark.parametrize("verdict", [1, 4, 77, -4096, -(1 << 31)])
def test_return_value_without_a_meaning_fails_the_request_or_is_refused_by_the_verifier(target, face, verdict):
    outcome = target.device.try_attach("complete", {"op": READ, "verdict": verdict})
    if outcome.status:
        assert face == "program_type" and "verifier" in outcome.err, str(outcome)
        return
    assert fails(target.opened, READ) == "EIO"
    assert target.device.refused() == {"verdict": 1}
    assert target.device.info()["bpf"]["last_refused"]["value"] == verdict % (1 << 32)
    with Opened(target.path) as d:
        assert d.read(AT, LEN) == pattern(AT, LEN)


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE, FLUSH], ids=["read", "write", "flush"])
def test_completion_program_passes_to_the_server(target, op, requests):
    target.attach(op, 2, requests)
    if op == FLUSH:
        submit(target.opened, WRITE)
    wakeups = target.device.info()["server"]["wakeups"]
    if op == READ:
        assert submit(target.opened, READ) == pattern(AT, LEN)
    else:
        submit(target.opened, op)
    info = target.device.info()
    assert info["server"]["wakeups"] > wakeups
    counters = info["bpf"]["counters"]
    assert counters["passed_late"] >= 1 and counters["errors_passed"] == 0
    if op == WRITE:
        with Opened(target.path) as d:
            assert d.read(AT, LEN) == pattern(AT, LEN, seed=2)


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE], ids=["read", "write"])
def test_server_can_tell_what_has_failed_from_what_was_only_passed(lab, op, requests):
    target = Target(lab, "fault", over="loop", fault="failed=bpf,error=ENOSPC")
    target.attach(op, 2, requests)
    submit(target.opened, op)
    other = lab.null_blk(8)
    bad_blocks(other, AT, LEN)
    target.device.attach("complete", {"op": op, "verdict": 2}, file=other.path, requests=requests, replace=True)
    assert fails(target.opened, op) == "ENOSPC"
    assert target.device.counters()["passed_late"] >= 2


@BIOS
def test_request_is_served_by_the_program_again_after_a_pass(target, requests):
    """What was passed once leaves nothing behind on its tag."""
    target.attach(READ, 2, requests, failed_only=True)
    bad_blocks(target.disk, AT, LEN)
    assert fails(target.opened, READ) == "EIO"  # of the server's disk, which is the same
    repaired(target.disk, AT, LEN)
    passed = target.device.counters()["passed_late"]
    for _ in range(300):
        assert submit(target.opened, READ) == pattern(AT, LEN)
    assert target.device.counters()["passed_late"] == passed


@BIOS
@pytest.mark.parametrize("parts", [1, 2, 4, MAX_ROUNDS])
def test_read_in_rounds_is_what_is_there(lab, parts, requests):
    device, disk = lab.loop_device(8)
    random_fill(disk, 8 * MIB)
    device.attach("rounds", {"part_sectors": LEN // 512 // parts}, requests=requests)
    before = device.counters()["rounds"]
    with Opened(device.path) as f, Opened(disk) as d:
        assert f.read(AT, LEN) == d.read(AT, LEN)
    assert device.counters()["rounds"] >= before + parts - 1
    if parts == MAX_ROUNDS:
        fio(device.path, rw="randread", bs="4k", iodepth=16, io_size=MIB)
        # what is longer has more parts than there may be rounds
        with Opened(device.path) as f, Opened(disk) as d:
            for at in range(0, MIB, LEN):
                assert f.read(at, LEN) == d.read(at, LEN)


@BIOS
def test_rounds_are_bounded(lab, requests):
    device, disk = lab.loop_device(8)
    random_fill(disk, 8 * MIB)
    length = (MAX_ROUNDS + 1) * 512
    for knobs in ({"part_sectors": 1}, {"part_sectors": 8, "endless": True}):
        device.attach("rounds", knobs, requests=requests, replace=device.info()["bpf"]["attached"])
        refused, rounds = device.refused().get("verdict", 0), device.counters()["rounds"]
        with Opened(device.path) as f:
            with pytest.raises(OSError) as caught:
                f.read(AT, length)
            assert caught.value.errno == errno.EIO
        assert device.refused()["verdict"] > refused
        assert device.counters()["rounds"] >= rounds + MAX_ROUNDS - 1
        assert device.info()["bpf"]["last_refused"]["reason"] == "verdict"
    device.detach()
    assert_same(device.path, disk, 8 * MIB)


@BIOS
def test_program_that_never_ends_its_rounds_ends_with_its_device(lab, requests):
    device, _ = lab.loop_device(8, q=2)
    device.attach("rounds", {"endless": True}, requests=requests)
    with Load(device.path, must_succeed=False, size="2m", io_size="1m", iodepth=32):
        cli.wait_for("rounds", lambda: device.counters()["rounds"] > 500, 60)
        device.attach("loop", replace=True)
    device.delete()


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE, FLUSH], ids=["read", "write", "flush"])
def test_plan_of_a_later_round_may_go_elsewhere(lab, op, requests):
    target = Target(lab)
    other = lab.null_blk(8)
    with Opened(other.path) as d:
        d.write(AT, pattern(AT, LEN, seed=3))
    target.device.attach("complete", {"op": op, "verdict": AS_IT_IS, "rounds": 1, "other_from": 1},
                         file=[target.path, other.path], requests=requests)
    result = submit(target.opened, op)
    ctx = last(target.device)["ctx"]
    assert (ctx["round"], ctx["result"]) == (2, 0)
    if op == READ:
        assert result == pattern(AT, LEN, seed=3)
    if op == WRITE:
        assert ctx["user_data"] == MARK + 1
        for path in (target.path, other.path):
            with Opened(path) as d:
                assert d.read(AT, LEN) == pattern(AT, LEN, seed=2), path


@BIOS
def test_read_that_fails_is_repeated_on_the_other_file(lab, requests):
    good, bad = lab.null_blk(16), lab.null_blk(16)
    random_fill(good.path, 16 * MIB)
    with Opened(good.path) as g, Opened(bad.path) as b:
        for offset in range(0, 16 * MIB, MIB):
            b.write(offset, g.read(offset, MIB))
    for offset in range(0, 16 * MIB, MIB):
        bad_blocks(bad, offset + 20480, 4096)
    device = lab.add("null", size=16 * MIB, q=2)
    device.attach("complete", {"op": READ, "verdict": AS_IT_IS, "failed_only": True, "rounds": 1, "other_from": 1},
                  file=[bad.path, good.path], requests=requests)
    assert_same(device.path, good.path, 16 * MIB)
    fio(device.path, rw="randread", bsrange="4k-64k", iodepth=32, io_size=16 * MIB)
    counters = device.counters()
    assert counters["rounds"] >= 16 and counters["failed"] == 0


@pytest.mark.full
@BIOS
def test_completion_programs_come_and_go_under_verified_io(lab, requests):
    device, disk = lab.loop_device(16, q=2)
    steps = [("completed", {}), ("loop", {}), ("complete", {"op": WRITE, "verdict": AS_IT_IS, "rounds": 1}),
             ("rounds", {"part_sectors": 64}), ("complete", {"op": READ, "verdict": 2})]
    with Load(device.path, offset=0, size="8m", io_size="2m", bs="4k", iodepth=16) as load:
        for cycle in range(4):
            for step, (name, knobs) in enumerate(steps):
                device.attach(name, knobs, requests=requests, replace=bool(step or cycle))
                load.check()
                # on a busy machine there may be no write while it is attached
                if cycle == 0 and knobs.get("op") == WRITE:
                    cli.wait_for("a second round", lambda: load.error or device.counters()["rounds"], 120)
            if cycle % 2 == 0 and cycle < 3:
                rounds = load.rounds
                cli.wait_for("a round of I/O", lambda r=rounds: load.error or load.rounds > r, 120)
        device.detach()
    counters = device.counters()
    assert counters["failed"] == 0 and counters["aborted"] == 0
    assert counters["rounds"] > 0 and counters["passed_late"] > 0
    assert device.info()["bpf"]["complete_id"] is None
    assert_same(device.path, disk, 16 * MIB)


def test_completion_program_goes_when_one_without_takes_its_place(target):
    first = target.attach(READ, AS_IT_IS)
    second = target.device.attach("loop", replace=True)["bpf"]
    assert first["complete_id"] and second["complete_id"] is None and "complete" not in second["flags"]
    assert submit(target.opened, READ) == pattern(AT, LEN)


def test_completion_program_goes_on_without_a_server(lab):
    device, disk = lab.loop_device(16, q=2, r=1)
    device.attach("complete", {"op": WRITE, "verdict": AS_IT_IS, "rounds": 1})
    kill_server(device)
    quiesced(device)
    fio_verify(device.path, bs="4k", iodepth=16, size="4m")
    assert device.counters()["rounds"] > 500 and device.counters()["failed"] == 0
    cli.ok("recover", "-n", device.id)
    assert_same(device.path, disk, 16 * MIB)


@BIOS
def test_what_the_completion_program_passes_fails_where_i_o_is_to_fail(lab, requests):
    target = Target(lab, r=1, e=1)
    target.attach(READ, 2, requests)
    kill_server(target.device)
    cli.wait_for("the device to fail I/O", lambda: target.device.state() == "fail_io")
    assert fails(target.opened, READ) in ("EIO", "EREMOTEIO")
    cli.ok("recover", "-n", target.device.id)
    assert submit(target.opened, READ) == pattern(AT, LEN)


@BIOS
@pytest.mark.parametrize("reissue", [0, 1])
def test_what_the_completion_program_passes_waits_for_the_next_server(lab, reissue, requests):
    target = Target(lab, r=1, **({"i": 1} if reissue else {}))
    target.attach(READ, 2, requests)
    kill_server(target.device)
    quiesced(target.device)
    reading = Background(submit, target.opened, READ)
    cli.wait_for("it to be passed", lambda: target.device.counters()["passed_late"] == 1)
    assert not reading.done()
    cli.ok("recover", "-n", target.device.id)
    assert reading.join() == pattern(AT, LEN)


def test_file_system_on_a_device_with_a_completion_program(lab):
    device, _ = lab.loop_device(64, q=2)
    device.attach("complete", {"op": WRITE, "verdict": AS_IT_IS, "rounds": 1})
    sh("mkfs.ext4", "-q", "-F", device.path)
    where = lab.mount(device.path, "ext4")
    for i in range(20):
        (where / f"file{i}").write_bytes(os.urandom(100_000))
    lab.umount(where)
    assert sh("e2fsck", "-f", "-n", device.path, check=False).returncode == 0
    assert device.counters()["rounds"] > 0 and device.counters()["failed"] == 0
