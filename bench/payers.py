# SPDX-License-Identifier: MIT
"""Who pays of what an I/O costs: bench/payers.c, run beside the generator."""

import json
import subprocess

from lab import Failed, built

PAYERS = built("payers")
NAMES = {"load": "submitter", "fio": "submitter", "ublk-bpf": "server", "kublk": "server", "qemu-nbd": "server"}


class Unavailable(Failed):
    """This kernel cannot tell."""


class Payers:
    """Counts from enter to exit; while it does, everything costs a little more."""

    def __init__(self, copies=False):
        self.options = ["--copies"] if copies else []

    def __enter__(self):
        argv = [PAYERS, *self.options, built("payers.bpf.o"), *(f"{name}={who}" for name, who in NAMES.items())]
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        if self.process.stdout.readline().strip() != "ready":
            self.process.wait()
            raise Unavailable(self.process.stderr.read().strip() or f"{PAYERS}: ended with status {self.process.returncode}")
        return self

    def __exit__(self, *unused):
        self.process.stdin.close()
        self.process.wait()

    def _say(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def reset(self):
        self._say()

    def read(self):
        """What was counted since reset()."""
        return json.loads(self._say())


def shares(seen, ios):
    """Per I/O, by who pays, and the other things counted; idle time is nobody's cost."""
    payers = {
        "submitter_user": seen["submitter"]["user_ns"],
        "submitter_system": seen["submitter"]["system_ns"],
        "server_user": seen["server"]["user_ns"],
        "server_system": seen["server"]["system_ns"],
        "kernel_threads": seen["kernel_threads"]["user_ns"] + seen["kernel_threads"]["system_ns"],
        "interrupts": seen["interrupts_ns"],
        "other": seen["other"]["user_ns"] + seen["other"]["system_ns"],
    }
    return {
        "payers": {name: ns / ios for name, ns in payers.items()},
        "syscalls_per_io": {who: round(seen[who]["syscalls"] / ios, 4) for who in ("submitter", "server")},
        "context_switches_per_io": round(seen["switches"] / ios, 4),
        "wakeups_per_io": {who: round(seen[who]["wakeups"] / ios, 4) for who in ("submitter", "server", "kernel_threads")},
    }


def scaled(found, cost):
    """The shares of a cost that was counted without looking at who pays."""
    traced = sum(found["payers"].values())
    payers = {name: round(value * cost / traced, 1) for name, value in found["payers"].items()} if traced else None
    return {**found, "payers": payers, "traced_cost_per_io": round(traced, 1)}
