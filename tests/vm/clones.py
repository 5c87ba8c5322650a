# SPDX-License-Identifier: MIT
"""What the tests of clones have in common: layers, a model in memory, and how servers end."""

import json
import os
import random
import signal
import subprocess
import threading
import time

import cli
import pytest
from blockio import MIB, Opened
from cli import wait_for

SIZE = 8 * MIB
# of each thread of a model, at a time
OPS = int(os.environ.get("UBLK_BPF_CLONE_OPS", 400 if cli.FULL else 40))
THREADS = 4


def layer(path, **opts):
    cli.ok("layer", "create", path, *cli.options(opts))
    return str(path)


class Model:
    """tests/tools/model_io.cpp at work: a device and what it has to have."""

    def __init__(self, lab, block, size=SIZE):
        self.seed = int(os.environ.get("UBLK_BPF_SEED", random.SystemRandom().getrandbits(48)))
        print(f"UBLK_BPF_SEED={self.seed}")
        self.random = random.Random(self.seed)
        self.process = subprocess.Popen([cli.TOOLS / "model-io", str(size), str(block), str(self.seed)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lab.cleanup(self._end)

    def _end(self):
        self.process.kill()
        self.process.communicate()

    def begin(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def end(self):
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", f"UBLK_BPF_SEED={self.seed}: {answer}"

    def __call__(self, *words):
        self.begin(*words)
        self.end()


def kill(device):
    pid = device.server_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(f"server {pid} to be gone", lambda: not os.path.exists(f"/proc/{pid}"))


def kill_and_recover(device):
    kill(device)
    cli.ok("recover", "-n", device.id)


def take_over(device):
    """Another server under I/O. A driver without UBLK_F_QUIESCE, as Linux 6.12's, changes it only when the old one is dead."""
    outcome = cli.run("takeover", "-n", device.id)
    if "UBLK_F_QUIESCE" in outcome.err:
        kill_and_recover(device)
    else:
        assert outcome.status == 0, str(outcome)


def recover_if_it_waits(device):
    """After its server may have been killed."""
    wait_for("it to wait or live", lambda: device.state() in ("quiesced", "live"))
    if device.state() == "quiesced":
        cli.ok("recover", "-n", device.id)


def traced(call, inject, *args):
    """A command, and a server that it starts, with something done to a system call of theirs; strace ends with the last of them."""
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{inject}"]
    return subprocess.Popen([*strace, cli.COMMAND, *map(str, args), "--json"], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def killed_at(device, call, when, *args):
    """
    Runs a command whose server is killed as it begins a system call for that time. False: it came to its end before;
    then another server has the device.
    """
    process = traced(call, f"signal=SIGKILL:when={when}", *args)
    said = json.loads(process.stdout.readline() or '{"error": null}')
    if "error" not in said:
        take_over(device)  # which ends it, and with it strace
    process.communicate(timeout=cli.seconds(60))
    return "error" in said


def flush(device):
    with Opened(device.path) as f:
        f.flush()


def refused(outcome, name, *texts):
    assert outcome.status == 1 and outcome.json["error"]["errno"] == name, str(outcome)
    assert len(outcome.err.strip().splitlines()) == 1, str(outcome)
    for text in texts:
        assert text in outcome.err, str(outcome)


# how a clone is served
SERVED = {
    "program": pytest.param(True, marks=pytest.mark.face),
    "server": False,
}
by_both = pytest.mark.parametrize("bpf", SERVED.values(), ids=SERVED.keys())


@pytest.fixture
def where(lab):
    return lab.ext4(160)


@pytest.fixture
def golden(lab, where):
    return lab.file(where, SIZE, sparse=False)


@pytest.fixture
def delta(golden):
    return layer(f"{golden}.delta", base=golden)


def add(lab, delta, bpf=True, **opts):
    return lab.add("clone", delta, r=1, i=1, no_bpf=not bpf, **opts)


def snapshot(device, to):
    cli.ok("snapshot", "-n", device.id, "--to", to)
    return str(to)


def fork(lab, device, to):
    return lab.adopt(cli.Device(cli.ok("fork", "-n", device.id, "--to", to)))


def layers_of(device):
    return [one["path"] for one in device.info()["layers"]]


def check_clean(path):
    assert cli.run("layer", "check", path).status == 0, cli.run("layer", "check", path)


def served_anew(lab, device, path, model, bpf):
    """The device ends, and its layer is another one's; each has what the model, which was open, has."""
    model("verify")
    model("close")
    device.delete()
    check_clean(path)
    device = add(lab, path, bpf)
    model("open", device.path)
    model("verify")
    model("close")
    return device


def holds(path, data, at=0):
    with Opened(path, flags=os.O_RDONLY) as f:
        is_there = f.read(at, len(data)) == data
    return is_there


class Writers:
    """
    Each writes its own blocks, with numbers that grow; knows what each may have had at which time. There are more blocks
    than are written between two snapshots: some are first writes at any time.
    """

    SIZE = 32 * MIB

    def __init__(self, device, nr=4, blocks=2000, block=4096):
        self.path, self.block, self.blocks = device.path, block, blocks
        self.log = [[] for _ in range(nr)]  # (block, number, begun, ended)
        self.stop = threading.Event()
        self.longest = 0
        self.failed = []
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(nr)]

    def _run(self, me):
        try:
            with Opened(self.path) as f:
                number = 0
                while not self.stop.is_set():
                    number += 1
                    block = me + len(self.log) * (number * 7 % self.blocks)
                    data = number.to_bytes(8, "little") * (self.block // 8)
                    begun = time.monotonic()
                    # of half of them now and then a part of a block, which waits for a server; the others need none
                    part = data[:512] if me % 2 and number % 5 == 0 else data
                    f.write(block * self.block, part)
                    ended = time.monotonic()
                    self.longest = max(self.longest, ended - begun)
                    self.log[me].append((block, number, begun, ended))
        except BaseException as e:  # noqa: BLE001
            self.failed.append(e)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert not self.failed, self.failed

    def check(self, path, begun, ended):
        """First sectors: not older than what was there when it began, not newer than what had begun when it ended."""
        with Opened(path, flags=os.O_RDONLY) as f:
            for log in self.log:
                of_block = {}
                for entry in log:
                    of_block.setdefault(entry[0], []).append(entry)
                for block, writes in of_block.items():
                    oldest = max((number for _, number, _, done in writes if done < begun), default=0)
                    newest = max((number for _, number, at, _ in writes if at < ended), default=0)
                    has = int.from_bytes(f.read(block * self.block, 512)[:8], "little")
                    assert oldest <= has <= newest, f"block {block}: has {has}, not {oldest} to {newest}"
