# SPDX-License-Identifier: MIT
"""drain returns when what the program planned before it is done, and the device goes on meanwhile."""

import os
import signal
import subprocess
import time

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, pattern
from cli import wait_for
from test_complete import BIOS
from test_kill import Background, kill_server, quiesced

# long enough for a loaded machine to do the rest meanwhile
DELAY = cli.seconds(4)
SLOW, FAST = 4 * MIB, MIB


def timed(function, *args):
    """When it began and ended."""
    began = time.monotonic()
    function(*args)
    return began, time.monotonic()


class Slow:
    """A device whose program has a backing that takes its time over reads of some of its bytes."""

    def __init__(self, lab, requests=False, program="loop", **opts):
        self.disk = lab.null_blk(8)
        with Opened(self.disk.path) as f:
            for offset in range(0, 8 * MIB, MIB):
                f.write(offset, pattern(offset, MIB))
        rule = f"op=read,range=4M-5M,delay={int(DELAY * 1000)}ms"
        self.backing = lab.add("fault", self.disk.path, over="loop", fault=rule)
        self.device = lab.add("null", size=8 * MIB, **opts)
        self.device.attach(program, file=self.backing.path, requests=requests)
        self.opened = Opened(self.device.path)
        lab.cleanup(self.opened.__exit__)

    def begin(self, offset=SLOW):
        """A read that is planned and under way."""
        before = self.device.counters()["redirected"]
        arrived = self.backing.info()["server"]["wakeups"]
        reading = Background(timed, self.opened.read, offset, 4096)
        wait_for("the read to be planned", lambda: self.device.counters()["redirected"] > before
                 or self.backing.info()["server"]["wakeups"] > arrived)
        return reading

    def drain(self, *args):
        return cli.ok("drain", "-n", self.device.id, *args)


@BIOS
@pytest.mark.parametrize("program", ["loop", "completed"])
def test_drain_waits_for_what_was_planned_before_it(lab, program, requests):
    slow = Slow(lab, requests, program)
    before = slow.device.info()["bpf"]
    reading = slow.begin()
    draining = Background(timed, slow.drain)
    served = 0
    while not draining.done() and not reading.done():
        assert slow.opened.read(FAST + served % 64 * 4096, 4096) == pattern(FAST + served % 64 * 4096, 4096)
        served += 1
    began, _ = reading.join()
    assert draining.join()[1] >= began + DELAY, "it has not waited for the read"
    assert served > 10, "the device has not gone on meanwhile"
    after = slow.device.info()["bpf"]
    assert (after["prog_id"], after["complete_id"]) == (before["prog_id"], before["complete_id"])
    assert after["counters"]["nr_attach"] == before["counters"]["nr_attach"]
    assert after["counters"]["failed"] == 0


@BIOS
def test_drain_does_not_wait_for_what_is_planned_after_it(lab, requests):
    slow = Slow(lab, requests)
    reading = slow.begin()
    draining = Background(timed, slow.drain)
    time.sleep(DELAY / 2)
    assert not draining.done()
    later = slow.begin(SLOW + 65536)
    reading.join()
    draining.join()
    assert not later.done(), "it has waited for a read that came later"
    later.join()


def test_drain_of_an_idle_device_is_quick_and_changes_nothing(lab):
    device, disk = lab.loop_device(8)
    device.attach("completed")
    before = device.info()["bpf"]
    began = time.monotonic()
    for _ in range(5):
        cli.ok("drain", "-n", device.id)
    assert time.monotonic() - began < cli.seconds(10)
    assert device.info()["bpf"] == before
    with Opened(device.path) as f, Opened(disk) as d:
        f.write(0, pattern(0, 65536))
        assert d.read(0, 65536) == pattern(0, 65536)


@pytest.mark.full
@BIOS
def test_many_may_wait_at_once(lab, requests):
    slow = Slow(lab, requests)
    reading = slow.begin()
    draining = [Background(timed, slow.drain) for _ in range(8)]
    began, _ = reading.join()
    for one in draining:
        assert one.join(60)[1] >= began + DELAY


def test_drain_that_takes_too_long_says_so_and_the_device_goes_on(lab):
    slow = Slow(lab)
    reading = slow.begin()
    late = cli.run("drain", "-n", slow.device.id, "--deadline", 1, "--json")
    assert late.status == 1 and late.json["error"]["errno"] == "ETIMEDOUT", str(late)
    assert "has not ended after 1 s" in late.err and "the program had redirected" in late.err
    assert not reading.done()
    assert slow.opened.read(FAST, 4096) == pattern(FAST, 4096)
    reading.join()
    slow.drain()


@pytest.mark.full
def test_drain_that_is_killed_leaves_the_device_as_it_was(lab):
    slow = Slow(lab)
    reading = slow.begin()
    for code in (signal.SIGINT, signal.SIGKILL):
        command = subprocess.Popen([cli.COMMAND, "drain", "-n", str(slow.device.id)], stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        os.kill(command.pid, code)
        assert command.wait(cli.seconds(20)) != 0
    assert slow.opened.read(FAST, 4096) == pattern(FAST, 4096)
    reading.join()
    slow.drain()
    slow.device.detach()


@pytest.mark.full
@BIOS
def test_program_can_be_replaced_and_taken_off_while_it_is_drained(lab, requests):
    slow = Slow(lab, requests)
    reading = slow.begin()
    draining = Background(timed, slow.drain)
    replacing = Background(timed, lambda: slow.device.attach("completed", file=slow.backing.path, replace=True))
    began, _ = reading.join()
    assert replacing.join(60)[1] >= began + DELAY
    assert draining.join(60)[1] >= began + DELAY
    assert slow.device.info()["bpf"]["program"] == "completed"
    reading = slow.begin()
    draining = Background(cli.run, "drain", "-n", slow.device.id)
    slow.device.detach()
    reading.join()
    outcome = draining.join(60)
    # whichever came first
    assert outcome.status == 0 or "has no program attached" in outcome.err


@BIOS
@pytest.mark.parametrize("program", ["loop", "completed"])
def test_drains_under_verified_io_lose_nothing(lab, program, requests):
    device, disk = lab.loop_device(16, q=2)
    device.attach(program, requests=requests)
    with Load(device.path, offset=0, size="8m", io_size="2m", bs="4k", iodepth=16) as load:
        rounds = load.rounds
        for _ in range(40):
            cli.ok("drain", "-n", device.id)
            load.check()
        wait_for("a round of I/O", lambda: load.error or load.rounds > rounds, 120)
    counters = device.counters()
    assert counters["failed"] == 0 and counters["aborted"] == 0 and counters["nr_attach"] == 1
    assert_same(device.path, disk, 16 * MIB)


def test_device_is_drained_without_a_server(lab):
    slow = Slow(lab, r=1)
    kill_server(slow.device)
    quiesced(slow.device)
    reading = slow.begin()
    began, _ = timed(slow.drain)
    assert reading.join()[0] <= began
    cli.ok("recover", "-n", slow.device.id)


def test_drain_of_nothing(lab):
    device, _ = lab.loop_device(8)
    nothing = cli.run("drain", "-n", device.id, "--json")
    assert nothing.status == 1 and nothing.json["error"]["errno"] == "ENOENT", str(nothing)
    without = lab.add("null", size=MIB, no_bpf=True)
    assert cli.run("drain", "-n", without.id, "--json").json["error"]["errno"] == "EOPNOTSUPP"
