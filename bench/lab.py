# SPDX-License-Identifier: MIT
"""The block devices that are compared, in a machine that is thrown away afterwards."""

import json
import os
import subprocess
import time
from pathlib import Path

import dm

CONFIGFS = Path("/sys/kernel/config")
UBLK_BPF = os.environ.get("UBLK_BPF", "ublk-bpf")
KUBLK = os.environ.get("KUBLK", "/nonexistent/kublk")
MIB = 1 << 20
HERE = Path(__file__).resolve().parent


def built(name):
    """What bench/CMakeLists.txt builds: beside this file where it was installed, or where it was built."""
    return str(next((p for p in (HERE / name, HERE.parent / "build/bench" / name) if p.exists()), HERE / name))


class Failed(Exception):
    """Something that must work for there to be a result did not; the text says what."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came: whatever is made is to be taken away."""


class Interruption:
    """
    Takes note of SIGINT and SIGTERM, for places where it can be acted upon. What is started has a session of its own, so that a
    terminal's ^C does not reach it: an add that ends in the middle would leave what nobody knows of.
    """

    noted = False

    @classmethod
    def note(cls, *unused):
        cls.noted = True

    @classmethod
    def act(cls):
        if cls.noted:
            raise Interrupted()


def object_of(name):
    """A program's object: where the programs were installed, or built; where the tests' were built."""
    places = [os.environ.get("UBLK_BPF_OBJ_DIR"), HERE.parent / "bpf", HERE.parent / "build/bpf", HERE.parent / "build/tests/programs"]
    found = [p for p in (Path(d, f"{name}.bpf.o") for d in places if d) if p.exists()]
    if not found:
        raise Failed(f"{name}.bpf.o: is in none of {', '.join(str(d) for d in places if d)}: run make build")
    return found[0]


def sh(*argv, statuses=(0,)):
    """Runs a command that must end with one of these statuses and returns its output."""
    argv = [str(a) for a in argv]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, start_new_session=True)
    except OSError as e:
        raise Failed(f"{argv[0]}: {e.strerror}: install it and run this again") from e
    if done.returncode not in statuses:
        raise Failed(f"{' '.join(argv)}: status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def ublk(*args):
    """ublk-bpf with --json."""
    out = sh(UBLK_BPF, *args, "--json")
    return json.loads(out) if out else None


def probe():
    """What the kernel offers; status 1 where no program can be attached."""
    return json.loads(sh(UBLK_BPF, "probe", "--json", statuses=(0, 1)))


def drop_caches():
    """What is in the page cache and written is in it no more."""
    sh("sync")
    Path("/proc/sys/vm/drop_caches").write_text("1")


def wait_until(true, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s in vain for {what}")
        time.sleep(0.01)


def wait_for(path, seconds=10):
    wait_until(lambda: os.path.exists(path), f"{path} to appear", seconds)
    return path


def have_module(name):
    return subprocess.run(["modprobe", "-q", name], check=False).returncode == 0


# It takes 512 KiB at once, as disks do. Of its own accord it takes 127.5 KiB: what is larger must be split, which io_uring's first try, which may
# not wait, is refused (block/blk-merge.c), so that the raw device would be the dearest.
NULL_BLK = {"irqmode": 0, "queue_mode": 2, "blocksize": 512, "submit_queues": 1, "hw_queue_depth": 128, "max_sectors": 1024}


def null_blk(name, size_mib, memory_backed, **more):
    """A null_blk device that completes inline (irqmode 0)."""
    have_module("configfs")
    subprocess.run(["modprobe", "-q", "null_blk", "nr_devices=0"], check=False)
    if not (CONFIGFS / "nullb").exists():
        sh("mount", "-t", "configfs", "none", CONFIGFS)
    d = CONFIGFS / "nullb" / name
    try:
        d.mkdir()
        for attr, value in {**NULL_BLK, "size": size_mib, "memory_backed": memory_backed, **more, "power": 1}.items():
            (d / attr).write_text(str(value))
    except OSError as e:
        raise Failed(f"{d}: {e.strerror}: has this kernel null_blk?") from e
    # since 6.1 the disk has the name of the directory
    index = (d / "index").read_text().strip()
    for node in (f"/dev/{name}", f"/dev/nullb{index}"):
        if os.path.exists(node):
            return node
    return wait_for(f"/dev/{name}")


def null_blk_gone(name):
    d = CONFIGFS / "nullb" / name
    (d / "power").write_text("0")
    d.rmdir()


class FileDisk:
    """
    An ext4 whose files' data is dropped: the front of the disk, where all of the file system's own blocks are, is memory, the rest is a
    null_blk that keeps nothing. On a disk that keeps data most of what is counted would be its memcpy, the same on every path.
    """

    FRONT_MIB = 16
    WHAT = "ext4; its own blocks on brd, the file's data on null_blk that keeps nothing, put together by dm-linear"

    def __init__(self, data_mib):
        have_module("brd")
        if not os.path.exists("/dev/ram0"):
            raise Failed("no /dev/ram0: has this kernel brd?")
        have_module("dm_mod")
        front = self.FRONT_MIB * MIB // 512
        if int(sh("blockdev", "--getsz", "/dev/ram0")) < front:
            raise Failed(f"/dev/ram0 is smaller than {self.FRONT_MIB} MiB")
        self.data = data = null_blk("data", data_mib, 0)
        self.data_sectors = size = data_mib * MIB // 512
        self.kept = []  # first sector and sectors of what is in memory, and in which
        try:
            dev = dm.create("bench", [(0, front, "linear", "/dev/ram0 0"), (front, size, "linear", f"{data} 0")])
        except OSError as e:
            raise Failed(f"device mapper: {e.strerror}: has this kernel dm-linear?") from e
        self.node = wait_for(f"/dev/dm-{os.minor(dev)}")
        self.where = Path("/run/bench/ext4")
        self.where.mkdir(parents=True)
        sh("mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "64", "-O", "^has_journal,^resize_inode",
           "-E", "packed_meta_blocks=1,lazy_itable_init=0", self.node)
        sh("mount", "-t", "ext4", self.node, self.where)

    @staticmethod
    def _extents(path):
        """First block and number of blocks of each."""
        lines = [line.split(":") for line in sh("filefrag", "-v", "-b4096", path).splitlines() if line.strip()[:1].isdigit()]
        return [(int(line[2].split("..")[0]), int(line[3])) for line in lines]

    def _in_data(self, path):
        """Few extents, so that they are in the inode, and all behind the front."""
        starts = [start for start, _ in self._extents(path)]
        return 0 < len(starts) <= 4 and min(starts) * 4096 >= self.FRONT_MIB * MIB

    def _keep(self, path, mib):
        """Puts memory behind the beginning of a file."""
        start, length = self._extents(path)[0]
        first, sectors, front = start * 8, mib * MIB // 512, self.FRONT_MIB * MIB // 512
        if length * 8 < sectors:
            raise Failed(f"{path}: ext4 does not put its first {mib} MiB in one place")
        self.kept.append((first, sectors, null_blk(f"kept{len(self.kept)}", mib, 1)))
        table, at = [(0, front, "linear", "/dev/ram0 0")], front
        for first, sectors, memory in [*sorted(self.kept), (front + self.data_sectors, 0, None)]:
            table.append((at, first - at, "linear", f"{self.data} {at - front}"))
            table.append((first, sectors, "linear", f"{memory} 0"))
            at = first + sectors
        dm.load("bench", [line for line in table if line[1]])

    def file(self, name, size_mib, kept_mib=0):
        """
        Every block written, none in the page cache. What comes to lie in the front stays as a filler. Of the first kept_mib what is written
        is kept.
        """
        for attempt in range(8):
            path = self.where / f"{name}.{attempt}"
            sh("fallocate", "-l", f"{size_mib}M", path)
            if self._in_data(path):
                if kept_mib:
                    self._keep(path, kept_mib)
                sh("dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size_mib}", "oflag=direct", "conv=notrunc,fsync", "status=none")
                return str(path)
            sh("truncate", "-s", "1M", path)
        raise Failed(f"{name}: ext4 does not put a file behind the first {self.FRONT_MIB} MiB")


def kernel_loop(file, *options, direct=True):
    """A loop device, with direct I/O if not told otherwise, one hardware queue as every loop device has."""
    if not os.path.exists("/dev/loop-control"):
        sh("modprobe", "loop")
    node = sh("losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}", *options, file)
    dio = Path("/sys/block", Path(node).name, "loop/dio").read_text().strip()
    if dio != str(int(direct)):
        raise Failed(f"{node}: does {'no ' if direct else ''}direct I/O on {file}")
    return node


def no_scheduler(node):
    """A device that can have a program has none by itself; one that cannot has what its kernel gives to a single queue."""
    Path("/sys/block", Path(node).name, "queue/scheduler").write_text("none")


class Ublk:
    """A ublk device of ours over a file or block device, or with none of the null target, or of a target with options of its own."""

    def __init__(self, file, *options, data_path="copy", queues=1, depth=128, target=None):
        have_module("ublk_drv")
        # several paths have one backing; and each is to be a disk with a cache, whatever that of null_blk is
        target = target or (["-t", "loop", "-f", file, "--shared", "--write-back"] if file else ["-t", "null"])
        info = ublk("add", *target, "-q", queues, "-d", depth, "--data-path", data_path, *options)
        self.id = info["dev_id"]
        self.node = wait_for(info["block"])
        no_scheduler(self.node)

    @classmethod
    def there(cls, dev_id):
        """One that somebody else has made, and that stays."""
        self = cls.__new__(cls)
        self.id = dev_id
        self.node = self.info()["block"]
        return self

    def throttle_writeback(self):
        """As block devices do by default; those that may have a program do not."""
        throttle = Path(f"/sys/class/block/{Path(self.node).name}/queue/wbt_lat_usec")
        if throttle.exists():
            throttle.write_text("2000")
        return self

    def attach(self, *args):
        return ublk("attach", "--dev", self.id, *args)

    def detach(self):
        return ublk("detach", "--dev", self.id)

    def info(self):
        return ublk("list", "-n", self.id)["devices"][0]

    def wakeups(self):
        server = self.info()["server"]
        return server["wakeups"] if server else 0

    def delete(self):
        ublk("del", "-n", self.id)


class Kublk:
    """The same, served by the kernel's kublk (scripts/kublk)."""

    FLAGS = {"copy": [], "zero-copy": ["-z"], "auto-zero-copy": ["--auto_zc"]}

    def __init__(self, file, data_path="copy", queues=1):
        have_module("ublk_drv")
        target = ["-t", "loop", file] if file else ["-t", "null"]
        line = sh(KUBLK, "add", *target[:2], "-q", queues, "-d", 128, *self.FLAGS[data_path], *target[2:])
        if not line.startswith("dev id "):
            raise Failed(f"kublk add says {line!r}")
        self.id = int(line.split()[2].rstrip(":"))
        self.node = wait_for(f"/dev/ublkb{self.id}")
        no_scheduler(self.node)

    def pid(self):
        """Of its server, as ours lists other tools' devices too; kublk says its parent's."""
        server = ublk("list", "-n", self.id)["devices"][0]["server"]
        return server["pid"] if server else None

    def delete(self):
        sh(KUBLK, "del", "-n", self.id)
