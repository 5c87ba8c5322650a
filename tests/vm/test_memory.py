# SPDX-License-Identifier: MIT
"""Memory is short, and the way to more of it leads through the device: there is progress, and nothing is lost."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import cli
import pytest
from blockio import MIB, Opened, pattern, random_fill
from lab import sh

CGROUPS = Path("/sys/fs/cgroup")
LIMIT_MIB = 48
SIZE_MIB = 128

# Each chunk has its own contents; what is read back is compared in another order than it was written in.
HOG = """
import hashlib, sys
mib, n = 1 << 20, int(sys.argv[1])
want = lambda i: hashlib.sha512(b"%d" % i).digest() * (mib // 64)
memory = bytearray(n * mib)
for i in range(n):
    memory[i * mib : (i + 1) * mib] = want(i)
print("filled", flush=True)
sys.stdin.readline()
for i in reversed(range(n)):
    assert memory[i * mib : (i + 1) * mib] == want(i), f"chunk {i} is not what was written"
"""


@contextlib.contextmanager
def memory_limit(mib):
    """A memory cgroup; yields what puts a child process into it."""
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    group = CGROUPS / "ublk-bpf-test"
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(mib * MIB))
        yield group, lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        cli.wait_for("the cgroup to be empty", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


@pytest.mark.parametrize("server", ["lives", "is-killed"])
def test_device_is_swapped_to(lab, server):
    device, _ = lab.loop_device(SIZE_MIB * 3 // 2, r=True)
    device.attach("loop")
    sh("mkswap", device.path)
    sh("swapon", device.path)
    lab.cleanup(sh, "swapoff", device.path)
    before = device.counters()["redirected"]
    with memory_limit(LIMIT_MIB) as (group, enter):
        argv = [sys.executable, "-c", HOG, str(SIZE_MIB)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(argv, preexec_fn=enter, **pipes) as hog:
            assert hog.stdout.readline() == "filled\n"
            assert int((group / "memory.swap.current").read_text()) > (SIZE_MIB - LIMIT_MIB) * MIB
            if server == "is-killed":
                pid = device.server_pid()
                os.kill(pid, 9)
                cli.wait_for("the server to be gone", lambda: device.info()["server"] is None)
            hog.communicate("\n", timeout=cli.seconds(120))
        assert hog.returncode == 0
    # out and back in, and none of it by the server
    assert device.counters()["redirected"] - before > 2 * (SIZE_MIB - LIMIT_MIB)
    assert device.counters()["failed"] == 0
    if server == "is-killed":
        cli.ok("recover", "-n", device.id)


def test_file_system_is_written_to_with_little_memory(lab):
    """Dirty pages can only be freed by writing them through the device, to a file whose own pages need memory as well."""
    backing = lab.ext4_file(SIZE_MIB + 32)
    device = lab.add("loop", backing)
    device.attach("loop")
    sh("mkfs.ext4", "-q", device.path)
    where = lab.mount(device.path, "ext4")
    with memory_limit(LIMIT_MIB // 2) as (_, enter):
        for command in (
            f"head -c {SIZE_MIB // 2}M /dev/urandom >{where}/data",
            f"cp {where}/data {where}/copy && sync -f {where}/copy",
            f"cmp {where}/data {where}/copy",
        ):
            done = subprocess.run(["sh", "-c", command], preexec_fn=enter, timeout=cli.seconds(120), check=False)
            assert done.returncode == 0, command
    assert device.counters()["failed"] == 0
    lab.umount(where)
    sh("e2fsck", "-f", "-n", device.path)


FAILSLAB = Path("/sys/kernel/debug/failslab")
TRIES = 10**6


@pytest.fixture
def failing_memory(lab):
    """Half of all that a task asks for without being able to wait for it fails, once the task has said so; yields how often it has failed."""
    if not os.path.ismount("/sys/kernel/debug"):
        sh("mount", "-t", "debugfs", "none", "/sys/kernel/debug", check=False)
    if not FAILSLAB.exists():
        pytest.skip("this kernel does not inject faults (make test-debug)")
    for name, value in {"task-filter": "Y", "ignore-gfp-wait": "Y", "verbose": 0, "interval": 1, "space": 0, "times": TRIES, "probability": 50}.items():
        (FAILSLAB / name).write_text(str(value))
    yield lambda: TRIES - int((FAILSLAB / "times").read_text())
    (FAILSLAB / "probability").write_text("0")


@pytest.mark.parametrize("requests", [False, True], ids=["bios", "requests"])
def test_submitters_that_find_no_memory_lose_nothing(lab, failing_memory, requests):
    """For a bio's request, or for the pages of a request that bios were merged to: then a worker waits for a reserve."""
    disk = lab.null_blk(16)
    random_fill(disk.path, 16 * MIB)  # which then needs no memory itself
    device = lab.add("loop", disk.path, q=2)
    device.attach("loop", requests=requests)
    image = lab.tmp / "image"
    image.write_bytes(pattern(0, 8 * MIB))

    def fails_from_now_on():
        Path("/proc/self/make-it-fail").write_text("1")

    for argv in (["dd", f"if={image}", f"of={device.path}", "bs=256k", "conv=fsync"],
                 ["dd", f"if={device.path}", "of=/dev/null", "bs=256k", "count=32"],
                 ["dd", f"if={device.path}", "of=/dev/null", "bs=256k", "count=32", "iflag=direct"]):
        before = failing_memory()
        done = subprocess.run(argv, preexec_fn=fails_from_now_on, capture_output=True, text=True, timeout=cli.seconds(60), check=False)
        assert done.returncode == 0, done.stderr
        assert failing_memory() > before, "nothing has failed"
        with Opened(device.path) as f:
            assert f.read(0, 8 * MIB) == pattern(0, 8 * MIB)
    counters = device.counters()
    assert counters["failed"] == counters["aborted"] == 0 and counters["redirected"] > 100
