# SPDX-License-Identifier: MIT
"""
What was completed before a FLUSH is durable when it returns, whichever program wrote it: it survives a power failure of
the disks, which lose what they were not told to keep. A flush of a replaced program's file is held up or fails.
"""

import contextlib
import errno
import os
import signal
import time

import cli
import pytest
from blockio import MIB, Opened, pattern
from cli import wait_for
from lab import sysfs
from test_kill import Background
from test_order import flushes

SIZE = 16 * MIB
# how long a flush that is too early has to show itself; today's took milliseconds
EARLY = 1


class Disk:
    """A disk with a volatile cache, below a device whose server can be held up, or fails what it is told to."""

    def __init__(self, lab, *faults):
        self.disk = lab.null_blk(SIZE // MIB, cache_size=8)
        if sysfs(self.disk.path, "queue/write_cache") != "write back":
            pytest.skip("null_blk of this kernel has no volatile cache")
        target = {"target": "fault", "over": "loop", "fault": faults} if faults else {}
        self.device = lab.add(file=self.disk.path, **target)
        self.path = self.device.path
        self._server = self.device.server_pid()
        lab.cleanup(self._signal, signal.SIGCONT)

    def _signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server, number)

    @contextlib.contextmanager
    def held(self):
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def cut_power(self):
        """What was not flushed is lost; power comes back."""
        self.disk.power(0)
        wait_for(f"{self.disk.path} to be gone", lambda: not os.path.exists(self.disk.path))
        self.disk.power(1)
        wait_for(self.disk.path, lambda: os.path.exists(self.disk.path))

    def survives(self, offset, data):
        with Opened(self.disk.path) as f:
            return f.read(offset, len(data)) == data


def test_a_power_failure_loses_what_was_not_flushed(lab):
    """What the tests below rest on."""
    disk, data = Disk(lab), pattern(0, 65536)
    with Opened(disk.path) as f:
        f.write(0, data)
        f.flush()
        f.write(MIB, data)
    disk.cut_power()
    assert disk.survives(0, data) and not disk.survives(MIB, data)


def published(device, before):
    """A replacing or detaching command is under way: the next request does not get what was attached."""
    def seen():
        info = device.info()["bpf"]
        return not info["attached"] or info["counters"]["nr_attach"] > before
    with contextlib.suppress(AssertionError):  # or it waits for the files first, which is as good
        wait_for("the program to be replaced", seen, 3)


def flush_while(old, f):
    """Begins a flush while the old disk is held up: it must wait. Returns how long it then took."""
    flush = Background(f.flush)
    deadline = time.monotonic() + EARLY
    while time.monotonic() < deadline:
        assert not flush.done(), "the flush returned while the replaced program's file is still being synced"
        time.sleep(0.01)
    return flush


# how a program goes: what is attached in its place, or the server
GOES = {
    "replaced": lambda device, new: device.attach("loop", file=new.path, replace=True),
    "replaced-by-one-that-passes": lambda device, new: device.attach("passflush", file=new.path, replace=True),
    "detached": lambda device, new: device.detach(),
}


@pytest.mark.parametrize("how", GOES)
def test_flush_waits_for_the_files_of_a_program_that_goes(lab, how):
    old, new = Disk(lab), Disk(lab)
    device = lab.add("null", size=SIZE)
    device.attach("loop", file=old.path)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(0, data)
        before = device.counters()["nr_attach"]
        with old.held():
            command = Background(GOES[how], device, new)
            published(device, before)
            flush = flush_while(old, f)
        flush.join()
        old.cut_power()
        assert old.survives(0, data), "a flush has returned, but what was written before it is lost"
        command.join()


def test_flush_waits_for_the_files_of_all_programs_before(lab):
    """Three in a row; the first one's file is held up, and the others wait for it or not."""
    disks = [Disk(lab) for _ in range(3)]
    device = lab.add("null", size=SIZE)
    device.attach("loop", file=disks[0].path)
    data = pattern(0, 65536)
    with Opened(device.path) as f:
        f.write(0, data)
        with disks[0].held():
            before = device.counters()["nr_attach"]
            commands = [Background(GOES["replaced"], device, disks[1])]
            published(device, before)
            write = Background(f.write, MIB, data)
            commands.append(Background(GOES["replaced"], device, disks[2]))
            flush = flush_while(disks[0], f)
        write.join()
        flush.join()
        f.flush()
        for disk in disks:
            disk.cut_power()
        where = [[d.survives(offset, data) for d in disks] for offset in (0, MIB)]
        assert where[0][0] and any(where[1]), f"lost: {where}"
        for command in commands:
            try:
                command.join()
            except AssertionError as e:
                # one that was slow, and whose disk has lost its power before it was synced
                assert "could not be synced" in str(e), e


@pytest.mark.full
def test_many_replacements_lose_nothing(lab):
    """To and fro between two files, a write and a flush each time."""
    disks = [Disk(lab), Disk(lab)]
    device = lab.add("null", size=SIZE)
    written = ([], [])
    with Opened(device.path) as f:
        for n in range(8):
            device.attach("loop", file=disks[n % 2].path, replace=n > 0)
            data = pattern(n * 65536, 65536, seed=n + 1)
            f.write(n * 65536, data)
            written[n % 2].append((n * 65536, data))
            if n % 3 == 0:
                f.flush()
        device.detach()
        f.flush()
    before = [flushes(d.disk.path) for d in disks]
    assert all(before), f"flushes: {before}"
    for disk, mine in zip(disks, written):
        disk.cut_power()
        assert [disk.survives(*one) for one in mine] == [True] * len(mine)


def fails_to_flush(f):
    try:
        f.flush()
    except OSError as e:
        assert e.errno == errno.EIO
        return True
    return False


@pytest.mark.parametrize("how", GOES)
def test_a_sync_that_fails_is_told_to_the_command_and_to_one_flush(lab, how):
    old, new = Disk(lab, "op=flush,error=EIO"), Disk(lab)
    device = lab.add("null", size=SIZE)
    device.attach("loop", file=old.path)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 65536))
        if how == "detached":
            outcome = cli.run("detach", "--dev", device.id, "--json")
        else:
            name = "loop" if how == "replaced" else "passflush"
            outcome = device.try_attach(name, file=new.path, replace=True)
        assert outcome.status == 1 and outcome.json["error"]["errno"] == "EIO", str(outcome)
        info = device.info()["bpf"]
        assert info["attached"] == (how != "detached"), "the program has gone all the same"
        assert fails_to_flush(f), "nobody was told that data is lost"
        assert not fails_to_flush(f), "one failure was reported twice"
        f.write(0, pattern(0, 4096, seed=2))
        assert not fails_to_flush(f)


def test_a_sync_that_fails_is_not_lost_with_a_program_that_never_flushed(lab):
    """Nothing was written through it: nothing can be lost, and nobody is told so."""
    old, new = Disk(lab, "op=flush,error=EIO"), Disk(lab)
    device = lab.add("null", size=SIZE)
    device.attach("loop", file=old.path)
    with Opened(device.path) as f:
        f.read(0, 4096)
        device.attach("loop", file=new.path, replace=True)
        assert not fails_to_flush(f)
