# SPDX-License-Identifier: MIT
"""What a test builds on: backing devices, file systems, ublk devices; all undone afterwards."""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import cli
from blockio import MIB, random_fill
from cli import wait_for

CONFIGFS = Path("/sys/kernel/config")


def sh(*argv, check=True, timeout=120):
    """A command of the system's; its output is part of the failure."""
    done = subprocess.run(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=cli.seconds(timeout),
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}"
    return done


def sysfs(path, attr):
    """An attribute of a block device's, by its node."""
    return (Path("/sys/class/block") / Path(path).name / attr).read_text().strip()


def write_file(path, text):
    Path(path).write_text(str(text))


class NullBlk:
    """A null_blk device that keeps its data in memory."""

    _numbers = itertools.count()

    def __init__(self, size_mib, **attrs):
        self._prepare()
        self.dir = CONFIGFS / "nullb" / f"ublkt{next(self._numbers)}"
        self.dir.mkdir()
        self.size = size_mib * MIB
        defaults = {"size": size_mib, "memory_backed": 1, "blocksize": 512, "discard": 1}
        try:
            for name, value in {**defaults, **attrs}.items():
                write_file(self.dir / name, value)
            self.power(1)
        except BaseException:
            self.dir.rmdir()
            raise
        index = (self.dir / "index").read_text().strip()
        # since 6.1 the disk has the name of the directory
        names = [self.dir.name, f"nullb{index}"]
        self.path = wait_for(
            f"the node of {self.dir}",
            lambda: next((f"/dev/{n}" for n in names if os.path.exists(f"/dev/{n}")), None),
        )

    @staticmethod
    def _prepare():
        if not (CONFIGFS / "nullb").exists():
            sh("modprobe", "configfs", check=False)
            sh("modprobe", "null_blk", "nr_devices=0", check=False)
            if not (CONFIGFS / "nullb").exists():
                sh("mount", "-t", "configfs", "none", CONFIGFS)

    def power(self, on):
        write_file(self.dir / "power", on)

    def remove(self):
        if self.dir.exists():
            self.power(0)
            self.dir.rmdir()


class Lab:
    """One test's devices. Whatever it makes is undone in reverse order."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.tmp = Path(tempfile.mkdtemp(prefix="ublk-bpf-"))
        self.stack.callback(shutil.rmtree, self.tmp, ignore_errors=True)
        self._names = itertools.count()

    def close(self):
        self.stack.close()

    def null_blk(self, size_mib=64, **attrs):
        disk = NullBlk(size_mib, **attrs)
        self.stack.callback(disk.remove)
        return disk

    def mount(self, device, fstype=None, options=None):
        """Mounts a block device; returns the mount point."""
        where = self.tmp / f"mnt{next(self._names)}"
        where.mkdir()
        argv = ["mount"]
        argv += ["-t", fstype] if fstype else []
        argv += ["-o", options] if options else []
        sh(*argv, device, where)
        self.stack.callback(self.umount, where)
        return where

    def umount(self, where):
        if os.path.ismount(where):
            sh("umount", where)

    def ext4(self, size_mib=96, options=None, **attrs):
        """A fresh ext4 on a null_blk device of its own."""
        disk = self.null_blk(size_mib, **attrs)
        sh("mkfs.ext4", "-q", "-F", "-O", "^has_journal" if size_mib < 16 else "has_journal", disk.path)
        return self.mount(disk.path, "ext4", options)

    def file(self, directory, size, sparse=True):
        """A file of this size, full of random data unless sparse."""
        path = Path(directory) / f"disk{next(self._names)}.img"
        with open(path, "wb") as f:
            f.truncate(size)
        if not sparse:
            random_fill(path, size)
        return str(path)

    def ext4_file(self, size_mib=32, sparse=True):
        return self.file(self.ext4(size_mib * 3 // 2 + 32), size_mib * MIB, sparse)

    def kernel_loop(self, file):
        """A loop device over a file: unlike null_blk it can write zeroes."""
        if not os.path.exists("/dev/loop-control"):
            sh("modprobe", "loop")
        path = sh("losetup", "--find", "--show", "--direct-io=on", file).stdout.strip()
        self.stack.callback(sh, "losetup", "-d", path)
        return path

    def device_mapper(self, path, kind="linear", args="", name="ublkt"):
        """All of a block device through one target of device mapper, whose further arguments are args."""
        for module in ("dm-mod", f"dm-{kind}"):
            sh("modprobe", "-q", module, check=False)
        sectors = sh("blockdev", "--getsz", path).stdout.strip()
        sh("dmsetup", "create", name, "--table", f"0 {sectors} {kind} {path} 0 {args}")
        self.cleanup(sh, "dmsetup", "remove", "--retry", name)
        sh("dmsetup", "mknodes", name)
        return f"/dev/mapper/{name}"

    def add(self, target="loop", file=None, **opts):
        """
        Adds a ublk device, which is deleted afterwards. It gets flushes even over null_blk, which has no cache to
        flush, unless write_back=False.
        """
        if {"loop", "mirror"} & {target, opts.get("over")}:
            opts = {"write_back": True, **opts}
        files = file if isinstance(file, (list, tuple)) else [file] if file else []
        args = ["add", "-t", target, *(arg for f in files for arg in ("-f", f)), *cli.options(opts)]
        device = self.adopt(cli.Device(cli.ok(*args)))
        wait_for(device.path, lambda: os.path.exists(device.path))
        return device

    def adopt(self, device):
        """One that is there already is deleted afterwards."""
        self.stack.callback(self._delete, device)
        return device

    @staticmethod
    def _delete(device):
        if device.exists():
            device.delete()
        wait_for(f"{device.path} to be gone", lambda: not os.path.exists(device.path))

    def loop_device(self, size_mib=32, **opts):
        """A ublk device over a raw device, and that."""
        disk = self.null_blk(size_mib)
        return self.add("loop", disk.path, **opts), disk.path

    def cleanup(self, function, *args):
        self.stack.callback(function, *args)
