# SPDX-License-Identifier: MIT
"""attach --pass-errors: what fails in the program goes to the server, once, and the server can tell."""

import errno

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, fio, pattern, random_fill
from cli import wait_for
from test_complete import AT, BIOS, FLUSH, LEN, READ, WRITE, bad_blocks, fails, repaired, submit
from test_kill import Background, kill_server, quiesced

SIZE = 8 * MIB
DISCARD = 3


class Pair:
    """A device whose server has one disk, and whose program another one with the same content, parts of which are bad."""

    def __init__(self, lab, requests=False, target="loop", attach=True, **opts):
        self.good, self.bad = lab.null_blk(8), lab.null_blk(8)
        random_fill(self.good.path, SIZE)
        with Opened(self.good.path) as g, Opened(self.bad.path) as b:
            for offset in range(0, SIZE, MIB):
                b.write(offset, g.read(offset, MIB))
        bad_blocks(self.bad, AT, LEN)
        self.device = lab.add(target, self.good.path, **opts)
        if attach:
            self.device.attach("loop", file=self.bad.path, pass_errors=True, requests=requests)
        self.opened = Opened(self.device.path)
        lab.cleanup(self.opened.__exit__)

    def errors_passed(self):
        return self.device.counters()["errors_passed"]

    def content(self):
        with Opened(self.good.path) as g:
            return g.read(AT, LEN)


@BIOS
def test_read_that_fails_is_served_by_the_server(lab, requests):
    pair = Pair(lab, requests)
    assert "pass_errors" in pair.device.info()["bpf"]["flags"]
    assert submit(pair.opened, READ) == pair.content()
    assert pair.errors_passed() >= 1
    before = pair.errors_passed()
    with Opened(pair.good.path) as g:
        assert pair.opened.read(MIB, MIB) == g.read(MIB, MIB)
    assert pair.errors_passed() == before, "what has not failed was passed"


@BIOS
def test_write_that_fails_is_served_by_the_server(lab, requests):
    pair = Pair(lab, requests)
    submit(pair.opened, WRITE)
    assert pair.content() == pattern(AT, LEN, seed=2)
    assert pair.errors_passed() >= 1


@BIOS
def test_without_the_flag_it_fails(lab, requests):
    pair = Pair(lab, attach=False)
    pair.device.attach("loop", file=pair.bad.path, requests=requests)
    assert fails(pair.opened, READ) == "EIO" and fails(pair.opened, WRITE) == "EIO"
    assert pair.errors_passed() == 0


@pytest.mark.parametrize("op", [FLUSH, DISCARD], ids=["flush", "discard"])
def test_flush_and_discard_that_fail_are_served_by_the_server(lab, op):
    where = lab.ext4(96)
    backing = lab.add("fault", lab.file(where, SIZE), over="loop", fault="op=flush+discard+write_zeroes,error=EIO")
    device = lab.add("loop", lab.file(where, SIZE))
    device.attach("loop", file=backing.path, pass_errors=True)
    with Opened(device.path) as f:
        submit(f, WRITE)
        submit(f, op)
    assert device.counters()["errors_passed"] >= 1
    # its file cannot be synced, which is said when it is let go
    assert cli.run("detach", "--dev", device.id).status == 1


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE], ids=["read", "write"])
def test_server_can_tell_what_has_failed_and_what_was_passed(lab, op, requests):
    pair = Pair(lab, requests, target="fault", over="loop", fault="failed=bpf,error=ENOSPC")
    assert fails(pair.opened, op) == "ENOSPC"
    pair.device.attach("pass", file=pair.bad.path, pass_errors=True, requests=requests, replace=True)
    submit(pair.opened, op)


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE], ids=["read", "write"])
def test_what_the_server_cannot_do_either_fails_once(lab, op, requests):
    pair = Pair(lab, requests)
    bad_blocks(pair.good, AT, LEN)
    before = pair.errors_passed()
    assert fails(pair.opened, op) == "EIO"
    passed = pair.errors_passed() - before
    assert 1 <= passed <= 2
    repaired(pair.good, AT, LEN)
    submit(pair.opened, op)


@BIOS
def test_error_of_the_completion_program_is_passed_and_its_success_is_not(lab, requests):
    pair = Pair(lab, attach=False)
    pair.device.attach("complete", {"op": READ, "verdict": -errno.ENOSPC}, pass_errors=True, requests=requests)
    assert submit(pair.opened, READ) == pair.content()
    assert pair.errors_passed() >= 1
    pair.device.attach("complete", {"op": READ, "verdict": 0}, file=pair.bad.path, pass_errors=True, requests=requests,
                       replace=True)
    before = pair.errors_passed()
    assert submit(pair.opened, READ) == bytes(LEN)
    assert pair.errors_passed() == before


@BIOS
def test_write_of_which_a_part_was_done_is_done_whole_by_the_server(lab, requests):
    pair = Pair(lab, attach=False)
    pair.device.attach("both", file=[pair.good.path, pair.bad.path], pass_errors=True, requests=requests)
    submit(pair.opened, WRITE)
    assert pair.content() == pattern(AT, LEN, seed=2)
    assert pair.errors_passed() >= 1


@BIOS
@pytest.mark.parametrize("reissue", [0, 1])
def test_without_a_server_it_waits_for_the_next(lab, reissue, requests):
    pair = Pair(lab, requests, r=1, **({"i": 1} if reissue else {}))
    for op in (READ, WRITE):
        kill_server(pair.device)
        quiesced(pair.device)
        before = pair.errors_passed()
        waiting = Background(submit, pair.opened, op)
        wait_for("it to be passed", lambda b=before: pair.errors_passed() > b)
        # others go on
        with Opened(pair.good.path) as g:
            assert pair.opened.read(MIB, MIB) == g.read(MIB, MIB)
        assert not waiting.done()
        cli.ok("recover", "-n", pair.device.id)
        result = waiting.join()
        if op == READ:
            assert result == pair.content()
    assert pair.content() == pattern(AT, LEN, seed=2)


@BIOS
def test_without_a_server_it_fails_where_i_o_is_to_fail(lab, requests):
    pair = Pair(lab, requests, r=1, e=1)
    kill_server(pair.device)
    wait_for("the device to fail I/O", lambda: pair.device.state() == "fail_io")
    # the driver's own error, of 7.2 and of 7.3
    assert {fails(pair.opened, READ), fails(pair.opened, WRITE)} <= {"EIO", "EREMOTEIO"}
    cli.ok("recover", "-n", pair.device.id)
    assert submit(pair.opened, READ) == pair.content()


@BIOS
def test_without_recovery_the_device_goes_with_its_server_and_nothing_hangs(lab, requests):
    pair = Pair(lab, requests, target="fault", over="loop", fault="failed=bpf,delay=3600s")
    waiting = [Background(submit, pair.opened, op) for op in (READ, WRITE)]
    wait_for("both to be passed", lambda: pair.errors_passed() >= 2)
    kill_server(pair.device)
    for one in waiting:
        with pytest.raises(OSError):
            one.join()


@BIOS
@pytest.mark.parametrize("op", [READ, WRITE], ids=["read", "write"])
def test_server_that_dies_over_it_gives_it_to_the_next_as_what_it_is(lab, op, requests):
    """Reissued, it is still one that has failed: the rule delays it again."""
    pair = Pair(lab, requests, target="fault", over="loop", fault="failed=bpf,delay=3s", r=1, i=1)
    want = pair.content()
    wakeups = pair.device.info()["server"]["wakeups"]
    waiting = Background(submit, pair.opened, op)
    wait_for("the server to have it", lambda: pair.device.info()["server"]["wakeups"] > wakeups)
    kill_server(pair.device)
    quiesced(pair.device)
    cli.ok("recover", "-n", pair.device.id)
    result = waiting.join()
    assert result == want if op == READ else pair.content() == pattern(AT, LEN, seed=2)


@BIOS
@pytest.mark.parametrize("how", [["del"], ["stop"]], ids=["del", "stop"])
def test_device_can_be_ended_while_it_waits(lab, how, requests):
    pair = Pair(lab, requests, r=1)
    kill_server(pair.device)
    quiesced(pair.device)
    waiting = [Background(submit, pair.opened, op) for op in (READ, WRITE)]
    wait_for("both to be passed", lambda: pair.errors_passed() >= 2)
    cli.ok(*how, "-n", pair.device.id, "--force")
    for one in waiting:
        with pytest.raises(OSError):
            one.join()


@BIOS
def test_program_can_be_taken_off_while_it_waits(lab, requests):
    pair = Pair(lab, requests, r=1)
    kill_server(pair.device)
    quiesced(pair.device)
    waiting = Background(submit, pair.opened, READ)
    wait_for("it to be passed", lambda: pair.errors_passed() >= 1)
    pair.device.detach()
    assert not waiting.done()
    cli.ok("recover", "-n", pair.device.id)
    assert waiting.join() == pair.content()


@BIOS
def test_nothing_is_lost_among_many_while_servers_come_and_go(lab, requests):
    pair = Pair(lab, attach=False, r=1, i=1, q=2)
    for offset in range(0, 4 * MIB, 256 << 10):
        bad_blocks(pair.bad, offset, 4096)
    # what could not be written to the bad one is not read from there
    pair.device.attach("both", file=[pair.good.path, pair.bad.path], pass_errors=True, requests=requests)
    with Load(pair.device.path, offset=0, size="4m", io_size="2m", bsrange="4k-16k", iodepth=16) as load:
        for _ in range(3):
            rounds = load.rounds
            kill_server(pair.device)
            quiesced(pair.device)
            cli.ok("recover", "-n", pair.device.id)
            wait_for("a round of I/O", lambda r=rounds: load.error or load.rounds > r, 120)
            load.check()
    assert pair.errors_passed() > 20
    assert_same(pair.device.path, pair.good.path, SIZE)


@BIOS
def test_all_that_is_bad_is_read_through_the_server(lab, requests):
    pair = Pair(lab, requests, q=2)
    bad_blocks(pair.bad, 0, SIZE)
    fio(pair.device.path, rw="randread", bsrange="4k-64k", iodepth=32, io_size=4 * MIB)
    assert_same(pair.device.path, pair.good.path, SIZE)
    counters = pair.device.counters()
    assert counters["errors_passed"] > 100
