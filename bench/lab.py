# SPDX-License-Identifier: MIT
"""The block devices that are compared, in a machine that is thrown away afterwards."""

import json
import os
import subprocess
import time
from pathlib import Path

CONFIGFS = Path("/sys/kernel/config")
UBLK_BPF = os.environ.get("UBLK_BPF", "ublk-bpf")
MIB = 1 << 20


class Failed(Exception):
    """Something that must work for there to be a result did not; the text says what."""


def sh(*argv):
    """Runs a command that must succeed and returns its output."""
    argv = [str(a) for a in argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def ublk(*args):
    """ublk-bpf with --json."""
    out = sh(UBLK_BPF, *args, "--json")
    return json.loads(out) if out else None


def wait_for(path, seconds=10):
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise Failed(f"{path} did not appear within {seconds} s")
        time.sleep(0.01)
    return path


def have_module(name):
    return subprocess.run(["modprobe", "-q", name], check=False).returncode == 0


NULL_BLK = {"irqmode": 0, "queue_mode": 2, "blocksize": 512, "submit_queues": 1, "hw_queue_depth": 128}


def null_blk(name, size_mib, memory_backed):
    """A null_blk device that completes inline (irqmode 0)."""
    have_module("configfs")
    subprocess.run(["modprobe", "-q", "null_blk", "nr_devices=0"], check=False)
    if not (CONFIGFS / "nullb").exists():
        sh("mount", "-t", "configfs", "none", CONFIGFS)
    d = CONFIGFS / "nullb" / name
    try:
        d.mkdir()
        for attr, value in {**NULL_BLK, "size": size_mib, "memory_backed": memory_backed, "power": 1}.items():
            (d / attr).write_text(str(value))
    except OSError as e:
        raise Failed(f"{d}: {e.strerror}: has this kernel null_blk?") from e
    # since 6.1 the disk has the name of the directory
    index = (d / "index").read_text().strip()
    for node in (f"/dev/{name}", f"/dev/nullb{index}"):
        if os.path.exists(node):
            return node
    return wait_for(f"/dev/{name}")


def ram_disk(size_mib):
    """A disk in memory: brd where the kernel has it, else null_blk."""
    if have_module("brd"):
        sh("rmmod", "brd")
        sh("modprobe", "brd", "rd_nr=1", f"rd_size={size_mib << 10}")
        return "brd", wait_for("/dev/ram0")
    return "null_blk memory_backed", null_blk("ram", size_mib, 1)


def ext4_file(disk, name, size_mib):
    """A file on a fresh ext4, every block written."""
    where = Path("/run/bench") / name
    where.mkdir(parents=True)
    sh("mkfs.ext4", "-q", "-F", disk)
    sh("mount", "-t", "ext4", disk, where)
    path = where / "disk.img"
    with open(path, "wb") as f:
        for _ in range(size_mib):
            f.write(os.urandom(MIB))
        f.flush()
        os.fsync(f.fileno())
    return str(path)


def kernel_loop(file):
    """A loop device with direct I/O, one hardware queue as every loop device has."""
    if not os.path.exists("/dev/loop-control"):
        sh("modprobe", "loop")
    node = sh("losetup", "--find", "--show", "--direct-io=on", file)
    dio = Path("/sys/block", Path(node).name, "loop/dio").read_text().strip()
    if dio != "1":
        raise Failed(f"{node}: does no direct I/O on {file}")
    return node


class Ublk:
    """A ublk device of ours over a file or block device."""

    def __init__(self, file, *options):
        have_module("ublk_drv")
        info = ublk("add", "-t", "loop", "-f", file, "-q", 1, "-d", 128, *options)
        self.id = info["dev_id"]
        self.node = wait_for(info["block"])

    def attach(self, *args):
        return ublk("attach", "--dev", self.id, *args)

    def detach(self):
        return ublk("detach", "--dev", self.id)

    def info(self):
        return ublk("list", "-n", self.id)["devices"][0]

    def wakeups(self):
        return self.info()["server"]["wakeups"]

    def delete(self):
        ublk("del", "-n", self.id)
