# SPDX-License-Identifier: MIT
"""
Random SQEs and verdicts, good, nearly good and bad ones, under load, while servers die and recover, programs are
replaced and detached, the device grows and schedulers change. I/O may fail, but it ends; nothing that a READ returns
comes from elsewhere; the kernel says nothing; and afterwards all works as before.
UBLK_BPF_FUZZ_SQES is the number of SQEs in all (make test-fuzz: a million), UBLK_BPF_FUZZ_SEED repeats a run.
"""

import contextlib
import json
import os
import random
import subprocess
import threading

import cli
import pytest
import stacks
from blockio import MIB, Opened, fio_verify
from cli import seconds, wait_for
from lab import sh, sysfs, write_file
from test_kill import kill_server
from test_paths import features, need  # noqa: F401 (a fixture)

SQES = int(os.environ.get("UBLK_BPF_FUZZ_SQES", "18000"))
SEED = int(os.environ.get("UBLK_BPF_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
SIZE = 16 * MIB
VARIANTS = {"requeue": ({}, []), "batch": ({"b": True}, ["batch_io"]), "reissue": ({"i": True}, [])}
# What a request that a program spoils may fail with: of I/O, never of memory or of the kernel's own making.
IO_ERRORS = {"EIO", "ENOSPC", "EOPNOTSUPP", "EINVAL", "EREMOTEIO", "EBUSY", "ENODATA"}


def tool(name, *args):
    return subprocess.Popen(
        [str(cli.TOOLS / name), *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result_of(process, timeout):
    try:
        out, err = process.communicate(timeout=seconds(timeout))
    except subprocess.TimeoutExpired as e:
        raise AssertionError(f"{process.args[0]} hangs, or something below it:\n{stacks.waiting()}") from e
    assert process.returncode == 0, f"{process.args[0]}: exit status {process.returncode}\n{out}\n{err}"
    return json.loads(out)


def schedulers(path):
    return sysfs(path, "queue/scheduler").replace("[", "").replace("]", "").split()


class Trouble:
    """What happens to a device meanwhile, one thing after the other, each brought to its end."""

    def __init__(self, device, file, disks, seed, batch):
        self.device, self.file, self.disks = device, file, disks
        self.fail_io = ["--fail-io"] if batch else []
        self.random = random.Random(seed)
        self.size = SIZE
        self.done = {}
        self.error = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        acts = [self.kill, self.kill, self.quiesce, self.takeover, self.resize, self.schedule, self.schedule, self.schedule_backing]
        try:
            while not self._stop.is_set():
                # all of them, however short the run is
                self.random.shuffle(acts)
                for act in acts:
                    # commands take their time on a slow machine: there is to be I/O between them
                    if self._stop.wait(seconds(self.random.random() * 0.5)):
                        break
                    act()
                    self.done[act.__name__] = self.done.get(act.__name__, 0) + 1
        except BaseException as e:  # handed to whoever stops it
            self.error = e

    def recover(self):
        cli.ok("recover", "-n", self.device.id, timeout=120)
        wait_for("the device to live", lambda: self.device.state() == "live")

    def kill(self):
        kill_server(self.device)
        if self.random.random() < 0.5:
            wait_for("the server to be missed", lambda: self.device.state() == "quiesced")
        self.recover()

    def quiesce(self):
        cli.ok("quiesce", "-n", self.device.id, *self.fail_io, timeout=120)
        self.recover()

    def takeover(self):
        if not self.fail_io:  # of a device that is served in batches it is refused
            cli.ok("takeover", "-n", self.device.id, timeout=120)

    def resize(self):
        if self.size < 2 * SIZE:
            self.size += MIB
            os.truncate(self.file, self.size)
            cli.ok("resize", "-n", self.device.id)

    def schedule(self, path=None):
        path = path or self.device.path
        write_file(f"/sys/class/block/{os.path.basename(path)}/queue/scheduler", self.random.choice(schedulers(path)))

    def schedule_backing(self):
        self.schedule(self.random.choice(self.disks))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, exc_type, *_):
        self._stop.set()
        self._thread.join(seconds(5 if exc_type else 180))
        if exc_type is None:
            assert not self._thread.is_alive(), f"a command hangs:\n{stacks.waiting()}"
            if self.error:
                raise self.error


@contextlib.contextmanager
def submitters(device, seed):
    """Yields what they have done, which is there afterwards."""
    process, seen = tool("fuzz-io", "--size", SIZE, "--seed", seed, "--threads", 6, device.path), {}
    try:
        yield seen
        seen.update(result_of(process, 120))
    finally:
        process.kill()


def backings(lab):
    """MODE:PATH of each, and the disks among them."""
    late = lab.null_blk(SIZE // MIB, irqmode=2, completion_nsec=20000)
    # it asks for nothing of the device's memory that a file system would not
    plain = lab.null_blk(SIZE // MIB, cache_size=4)
    ext4 = lab.ext4(128, irqmode=2, completion_nsec=20000)
    direct, buffered, read_only = (lab.file(ext4, SIZE) for _ in range(3))
    in_memory = lab.file("/dev/shm" if os.path.ismount("/dev/shm") else lab.tmp, SIZE)
    lab.cleanup(os.unlink, in_memory)
    files = [f"d:{late.path}", f"d:{plain.path}", f"d:{direct}", f"b:{buffered}", f"dr:{read_only}", f"b:{in_memory}", f"b:{plain.path}"]
    return files, [late.path, plain.path], ext4


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_sqes_and_verdicts_do_no_harm(lab, features, variant):  # noqa: F811
    options, needs = VARIANTS[variant]
    for feature in needs:
        need(features, feature)
    for module in ("kyber-iosched", "mq-deadline", "bfq"):
        sh("modprobe", "-q", module, check=False)
    sqes = max(1000, SQES // len(VARIANTS))
    files, disks, ext4 = backings(lab)
    own = lab.file(ext4, SIZE)
    device = lab.add("loop", own, r=1, q=2, **options)
    print(f"UBLK_BPF_FUZZ_SEED={SEED}")
    args = [arg for f in files for arg in ("--file", f)]
    with submitters(device, SEED) as seen, Trouble(device, own, disks, SEED, variant == "batch") as trouble:
        limit = max(120, sqes // 100)
        process = tool("fuzz-attach", "--dev", device.id, "--seed", SEED, "--sqes", sqes, "--seconds", int(seconds(limit + 60)),
                       *args, cli.program("fuzz"))
        try:
            made = result_of(process, limit)
        finally:
            process.kill()
    print(f"made: {made}\nI/O: {seen}\nmeanwhile: {trouble.done}")
    counters = device.counters()
    decided = sum(counters[k] for k in ("redirected", "passed", "dropped", "aborted"))
    assert decided == made["runs"], f"{counters}, but the program ran {made['runs']} times"
    assert made["sqes"] >= sqes and made["accepted"] > made["sqes"] // 2, made
    assert counters["redirected"] > counters["failed"], counters
    errors = {name.split()[-1] for name in seen["errors"]}
    assert errors <= IO_ERRORS, seen["errors"]
    still_works(lab, device, own)


def test_a_byte_that_nobody_wrote_is_seen(lab):
    """What the test above rests on."""
    disk = lab.null_blk(SIZE // MIB)
    with Opened(disk.path) as f:
        f.write(0, b"\xff" * SIZE)
    process = tool("fuzz-io", "--size", SIZE, "--threads", 3, disk.path)
    assert process.wait(seconds(60)) == 1 and "ff ff ff" in json.load(process.stdout)["foreign"]


def still_works(lab, device, file):
    device.attach("loop", replace=True)
    before = device.counters()
    fio_verify(device.path, bs="4k", iodepth=16, size="2m")
    fio_verify(device.path, bs="64k", size="4m", direct=0, ioengine="psync")
    after = device.counters()
    assert after["redirected"] > before["redirected"]
    assert [after[k] for k in ("failed", "aborted", "passed")] == [before[k] for k in ("failed", "aborted", "passed")]
    device.detach()
    fio_verify(device.path, bs="4k", iodepth=16, size="2m")
