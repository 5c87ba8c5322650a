# SPDX-License-Identifier: MIT
"""Runs ublk-bpf as its users do and reads what it says with --json."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
COMMAND = os.environ.get("UBLK_BPF", str(TREE / "build/loader/ublk-bpf"))
OBJ_DIR = Path(os.environ.get("UBLK_BPF_OBJ_DIR", TREE / "build/bpf"))
TEST_OBJ_DIR = Path(os.environ.get("UBLK_BPF_TEST_OBJ_DIR", TREE / "build/tests/programs"))
# What ublk-bpf bench tells CPU time by on a host, and by what tests hold tasks up. The patched kernel has none of it.
TRACEPOINTS = " bpf_trace_run1\n" in Path("/proc/kallsyms").read_text() and all(
    (Path("/sys/kernel/tracing/events") / e).exists() for e in ("raw_syscalls/sys_enter", "sched/sched_switch"))
TOOLS = TREE / "build/tests/tools"
# one ublkcN for each device
CHARS = Path("/sys/class/ublk-char")
# The command is: it has memory and threads that are its sanitizer's, and what an idle one costs is not judged.
SANITIZED = "UBLK_BPF_REPORTS" in os.environ
# What is attached without saying which sees requests only, as if bios were never shown to programs (scripts/test requests).
REQUESTS = os.environ.get("UBLK_BPF_REQUESTS") == "1"
# With the tests that are marked `full`, and more rounds of others (make test-full).
FULL = os.environ.get("UBLK_BPF_FULL") == "1"
# A debug kernel under emulation is an order of magnitude slower.
TIME_SCALE = float(os.environ.get("UBLK_BPF_TIME_SCALE", "1"))


# Commands that wait for the driver, 30 s if not told otherwise.
WAITING = ("add", "attach", "del", "detach", "drain", "gc", "quiesce", "recover", "resize", "stop", "takeover")


def seconds(n):
    """A deadline: only ever waited for in full when something is wrong."""
    return n * TIME_SCALE


def wait_for(what, predicate, timeout=30):
    """Polls until the predicate is true and returns its value."""
    deadline = time.monotonic() + seconds(timeout)
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds(timeout):.0f} s in vain for {what}")
        time.sleep(0.02)


def program(name):
    """The path of a program's object, of ours or of the tests'."""
    for directory in (OBJ_DIR, TEST_OBJ_DIR):
        path = directory / f"{name}.bpf.o"
        if path.exists():
            return str(path)
    raise FileNotFoundError(f"{name}.bpf.o is neither in {OBJ_DIR} nor in {TEST_OBJ_DIR}")


@dataclass
class Outcome:
    args: list
    status: int
    out: str
    err: str

    @property
    def json(self):
        try:
            return json.loads(self.out)
        except json.JSONDecodeError as e:
            raise AssertionError(f"{self}: stdout is not JSON: {e}") from e

    def __str__(self):
        return (
            f"`ublk-bpf {' '.join(self.args)}` exit status {self.status}\n"
            f"stdout: {self.out.strip()}\nstderr: {self.err.strip()}"
        )


def run(*args, prefix=(), timeout=60, preexec=None):
    """Runs the command; any outcome is one, but for not ending."""
    args = [str(a) for a in args]
    # the driver, too, takes its time on a slow machine
    if TIME_SCALE > 1 and args[:1] and args[0] in WAITING and "--deadline" not in args:
        args += ["--deadline", str(int(seconds(30)))]
    done = subprocess.run(
        [*prefix, COMMAND, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds(timeout),
        preexec_fn=preexec,
        check=False,
    )
    return Outcome(args, done.returncode, done.stdout, done.stderr)


def ok(*args, **kwargs):
    """Runs the command with --json, which must succeed, and returns the JSON."""
    outcome = run(*args, "--json", **kwargs)
    assert outcome.status == 0, str(outcome)
    return outcome.json if outcome.out.strip() else None


def probe():
    """What the kernel offers; exit status 1 where no program can be attached."""
    outcome = run("probe", "--json")
    assert outcome.status == (0 if outcome.json["can_attach"] else 1), str(outcome)
    return outcome.json


def devices():
    return ok("list")["devices"]


def device_ids():
    """Of all devices, as the kernel has them: the command would be most of what many a test takes."""
    return {int(node.removeprefix("ublkc")) for node in os.listdir(CHARS)} if os.path.isdir(CHARS) else set()


def options(values):
    """Keyword arguments as options: read_only=True, block_size=4096, file=[a, b]."""
    args = []
    for key, value in values.items():
        flag = f"--{key.replace('_', '-')}" if len(key) > 1 else f"-{key}"
        if value is True:
            args.append(flag)
        elif value is not None and value is not False:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                args += [flag, str(one)]
    return args


class Device:
    """A ublk device that a test has added."""

    def __init__(self, info):
        self.id = info["dev_id"]
        self.path = info["block"]
        self.size = info["size_bytes"]

    def info(self):
        found = ok("list", "-n", self.id)["devices"]
        assert len(found) == 1, f"list -n {self.id}: {found}"
        return found[0]

    def counters(self):
        return self.info()["bpf"]["counters"]

    def refused(self):
        """Counts of refusals by reason, those that are not 0."""
        return {r["reason"]: r["count"] for r in self.info()["bpf"]["refused"] if r["count"]}

    def attach(self, name, knobs=None, **opts):
        return ok("attach", "--dev", self.id, *attach_args(name, knobs, opts))

    def try_attach(self, name, knobs=None, **opts):
        return run("attach", "--dev", self.id, *attach_args(name, knobs, opts), "--json")

    def detach(self):
        return ok("detach", "--dev", self.id)

    def state(self):
        return self.info()["state"]

    def server_pid(self):
        return self.info()["server"]["pid"]

    def exists(self):
        return self.id in device_ids()

    def delete(self):
        ok("del", "-n", self.id)


def attach_args(name, knobs, opts):
    obj = name if "/" in str(name) else program(name)
    opts = {"requests": REQUESTS, **opts}
    sets = [arg for k, v in (knobs or {}).items() for arg in ("--set", f"{k}={int(v)}")]
    return [obj, *sets, *options(opts)]
