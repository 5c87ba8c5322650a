# SPDX-License-Identifier: MIT
"""What the tests of clones have in common: layers, a model in memory, and how servers end."""

import os
import random
import signal
import subprocess

import cli
from blockio import MIB, Opened
from cli import wait_for

SIZE = 8 * MIB


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
    cli.ok("takeover", "-n", device.id)


def flush(device):
    with Opened(device.path) as f:
        f.flush()


def refused(outcome, name, *texts):
    assert outcome.status == 1 and outcome.json["error"]["errno"] == name, str(outcome)
    assert len(outcome.err.strip().splitlines()) == 1, str(outcome)
    for text in texts:
        assert text in outcome.err, str(outcome)
