# SPDX-License-Identifier: MIT
"""
The data paths that ublk-bpf bench compares: how each is made over a backing, checked, and taken away again, whatever happens. What
cannot be made on this machine is listed with the reason.
"""

import mmap
import os
import random
import re
import stat
from contextlib import ExitStack
from pathlib import Path

import clones
import lab
import mapped
import tracks
from lab import Failed
from measure import Path as Measured
from way import Absent, Made, Shape, Way, Wrong, need_tool

CHECK_BYTES = 256 << 10
CHECK_PLACES = 8
FEW = 16  # devices


def raw(backing, stack, shape):
    return Made(backing)


def kernel_loop(backing, stack, shape, *options):
    node = lab.kernel_loop(backing, *options)
    stack.callback(lab.sh, "losetup", "-d", node)
    return Made(node)


def free_nbd():
    for d in sorted(Path("/sys/block").glob("nbd*"), key=lambda p: int(p.name[3:])):
        if not (d / "pid").exists():
            return f"/dev/{d.name}"
    raise Absent("all of /dev/nbd* are in use")


def nbd(backing, stack, shape, image_format="raw"):
    need_tool("qemu-nbd", "qemu-utils")
    if not lab.have_module("nbd") and not os.path.exists("/sys/block/nbd0"):
        raise Absent("this kernel has no nbd")
    node = free_nbd()
    pid = Path("/sys/block", Path(node).name, "pid")
    lab.sh("qemu-nbd", f"--connect={node}", "--cache=none", "--aio=native", f"--format={image_format}", f"--socket=/run/ublk-bpf-bench-{Path(node).name}",
           backing)  # returns when it is connected, and goes on in the background

    def end():
        lab.sh("qemu-nbd", "--disconnect", node)
        lab.wait_until(lambda: not pid.exists(), f"{node} to be disconnected")

    stack.callback(end)
    server = int(pid.read_text())
    lab.no_scheduler(node)
    return Made(node, pids=[server])


def kublk(data_path):
    def make(backing, stack, shape):
        if not os.path.exists(lab.KUBLK):
            raise Absent("kublk is not here: scripts/kublk builds it from the kernel's source package")
        device = lab.Kublk(backing, data_path, shape.queues)
        stack.callback(device.delete)
        return Made(device.node, pids=[device.pid()])

    return make


def server(data_path, *options):
    """Ours; the driver's refusal of a data path is the reason why it is absent."""

    def make(backing, stack, shape):
        # Its buffers are there from the beginning: of many devices, more memory than the machine has.
        many = shape.devices > 1
        small = ["--max-io", "64K"] if many else []
        try:
            device = lab.Ublk(backing, *options, *small, data_path=data_path, queues=shape.queues, depth=32 if many else 128)
        except Failed as e:
            if re.search(r"this kernel|lacks|has no", str(e)):
                raise Absent(str(e).split(": ", 2)[-1]) from e
            raise
        stack.callback(device.delete)
        return Made(device.node, device, [device.info()["server"]["pid"]])

    return make


def program(name, *options, add=()):
    def make(backing, stack, shape):
        made = server("copy", *add)(backing, stack, shape)
        try:
            made.device.attach(lab.object_of(name), *options)
        except Failed as e:
            if "no BPF part" in str(e):
                raise Absent(str(e).split(": ", 2)[-1]) from e
            raise
        return made

    return make


FIRST_KEPT_MIB = 4  # where a small file system has all that is its own


def buffered_loop(file, stack, shape):
    node = lab.kernel_loop(file, direct=False)
    stack.callback(lab.sh, "losetup", "-d", node)
    return Made(node)


def cached(make):
    """What is read is in the page cache; what is written would come to the disk at some later time."""
    def cache(file, stack, shape):
        made = make(file, stack, shape)
        made.reads_only = True
        lab.sh("dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none")
        return made

    return cache


def mounted(make):
    """The device itself is read, beside a file system that has claimed it."""
    def mount(file, stack, shape):
        made = make(file, stack, shape)
        where = Path(f"/run/bench/mounted-{os.path.basename(made.node)}")
        where.mkdir(parents=True)
        lab.sh("mkfs.ext4", "-q", "-b", "4096", "-N", "64", "-O", "^has_journal,^resize_inode", "-E", "packed_meta_blocks=1,lazy_itable_init=0,nodiscard",
               made.node)
        lab.sh("mount", "-t", "ext4", made.node, where)
        stack.callback(lab.sh, "umount", where)
        made.first_bytes, made.reads_only = 2 * FIRST_KEPT_MIB << 20, True
        return made

    return mount


PATHS = [
    Way("raw", "the backing itself", raw, main=True),
    Way("kernel loop", "drivers/block/loop.c, direct I/O", kernel_loop, main=True),
    mapped.LINEAR,
    Way("nbd, qemu-nbd", "qemu-nbd --cache=none --aio=native over a socket", nbd),
    Way("kublk, copy", "the kernel selftests' server", kublk("copy")),
    Way("kublk, zero-copy", "explicit registration", kublk("zero-copy")),
    Way("kublk, auto-zero-copy", "automatic registration", kublk("auto-zero-copy")),
    Way("server", "ours, copy", server("copy"), main=True),
    Way("server, user-copy", "ours, pread and pwrite of /dev/ublkcN", server("user-copy")),
    Way("server, need-get-data", "ours, copy with data asked for", server("need-get-data")),
    Way("server, zero-copy", "ours, explicit registration", server("zero-copy")),
    Way("server, auto-zero-copy", "ours, automatic registration", server("auto-zero-copy"), main=True),
    Way("server, auto-zero-copy, batch", "ours, requests and completions in batches", server("auto-zero-copy", "-b")),
    Way("program", "loop.bpf.o, I/O done by the submitter", program("loop"), main=True),
    Way("program, --no-inline", "loop.bpf.o, I/O done by a worker", program("loop", "--no-inline")),
    Way("program, passing", "pass.bpf.o leaves everything to our server, copy", program("pass")),
]


def policy(stack, name, target, *options):
    """A device of a target with options of its own, and a program that is more than a mapping to one file."""
    try:
        found = lab.object_of(name)
    except Failed as e:
        raise Absent(str(e)) from e
    device = lab.Ublk(None, target=target)
    stack.callback(device.delete)
    device.attach(found, *options)
    return Made(device.node, device, [device.info()["server"]["pid"]])


def stripe(disks, stack, shape):
    size = len(disks) * mapped.sectors_of(disks[0]) * 512
    files = [word for d in disks for word in ("--file", d)]
    return policy(stack, "stripe", ["-t", "null", "--size", size, "--chunk", mapped.STRIPE_SECTORS * 512], *files, "--shared",
                  "--set", f"chunk_sectors={mapped.STRIPE_SECTORS}")


def mirror(disks, stack, shape):
    return policy(stack, "mirror", ["-t", "mirror", *(word for d in disks for word in ("-f", d))])


POLICIES = [
    Way("program, stripe", "stripe.bpf.o over four legs, chunks of 64 KiB", stripe, disks=(False,) * 4),
    Way("program, mirror", "mirror.bpf.o over two legs, no log", mirror, disks=(False,) * 2),
]
COMPLETION = Way("program, completion", "with a completion program that does nothing", program("completed"))
FILE_WAYS = [
    Way("kernel loop, buffered", "drivers/block/loop.c through the page cache, all of it there", cached(buffered_loop)),
    Way("program, buffered", "loop.bpf.o through the page cache, all of it there", cached(program("loop", "--buffered"))),
    Way("program, mounted", "loop.bpf.o, a file system mounted on the device", mounted(program("loop")), kept_mib=FIRST_KEPT_MIB),
    *clones.WAYS,
    *tracks.WAYS,
]
ALL = PATHS + [w for w in mapped.WAYS if w is not mapped.LINEAR] + POLICIES + [COMPLETION] + FILE_WAYS
NEVER = [{"path": "io_uring BPF loop", "why": "nobody keeps one"}]
NULL_PATHS = [
    Way(f"{who}, {data_path}", "does no I/O", make(data_path))
    for data_path in ("copy", "zero-copy", "auto-zero-copy")
    for who, make in (("kublk", kublk), ("server", lambda d: server(d, "--no-fill")))
]


READ_ONLY = ("--read-only",)


def device_paths(dev_id):
    """A device that is there, as it is, and the ways in which its file can be read beside it."""

    def itself(backing, stack, shape):
        device = lab.Ublk.there(dev_id)
        return Made(device.node, device, [device.info()["server"]["pid"]] if device.info()["server"] else [])

    def over_file(backing, stack, shape):
        if not stat.S_ISBLK(os.stat(backing).st_mode):
            raise Absent("a file has no block device of its own")
        return Made(backing)

    return [
        Way(f"/dev/ublkb{dev_id}", "the device as it is", itself, main=True),
        Way("raw", "what the device is over", over_file, main=True),
        Way("kernel loop", "drivers/block/loop.c, direct I/O, read only", lambda b, s, shape: kernel_loop(b, s, shape, "--read-only"), main=True),
        *(Way("server" if d == "copy" else f"server, {d}", "ours, read only", server(d, *READ_ONLY), main=True)
          for d in ("copy", "user-copy", "zero-copy", "auto-zero-copy")),
        Way("program", "loop.bpf.o, I/O done by the submitter", program("loop", add=READ_ONLY), main=True),
    ]


def _direct(node, offset, data=None, length=0):
    """One direct write of these bytes, or a read of so many."""
    fd = os.open(node, os.O_DIRECT | (os.O_RDWR if data is not None else os.O_RDONLY))
    try:
        with mmap.mmap(-1, length or len(data)) as buffer:
            if data is None:
                done = os.preadv(fd, [buffer], offset)
                return bytes(buffer[:done])
            buffer[:] = data
            done = os.pwritev(fd, [buffer], offset)
            if done != len(data):
                raise Failed(f"{node}: wrote {done} of {len(data)} bytes at {offset}")
            return None
    finally:
        os.close(fd)


def check_data(way, backing):
    """
    What is written through the path is on the backing, and the other way round; over several disks, it comes back through the path.
    Raises Failed.
    """
    numbers = random.Random(way.name)
    with ExitStack() as stack:
        made = way.make(backing, stack, Shape())
        one = backing if isinstance(backing, str) else backing[0] if len(backing) == 1 else made.node
        for into, out_of in ((made.node, one), (one, made.node)):
            for place in range(CHECK_PLACES):
                data, offset = numbers.randbytes(CHECK_BYTES >> (place & 3)), place * CHECK_BYTES
                _direct(into, offset, data)
                if _direct(out_of, offset, length=len(data)) != data:
                    raise Wrong(f"{way.name}: {len(data)} bytes written to {into} at {offset} are not on {out_of}")


def read_first(node):
    """The first sectors, from the device itself."""
    return _direct(node, 0, length=4096)


def write_first(node, data):
    _direct(node, 0, data)


class Bench:
    """Paths that live until close(); what the result says of them, and of those that cannot be, is added to described and absent."""

    def __init__(self, described, absent):
        self.stack = ExitStack()
        self.paths = []
        self.described = described
        self.absent = absent
        for never in NEVER:
            self.missing(**never)

    def close(self):
        self.stack.close()

    def missing(self, path, why):
        if {"path": path, "why": why} not in self.absent:
            self.absent.append({"path": path, "why": why})

    def add(self, way, backing_name, node, devices=1, queues=1, check=None):
        """
        Makes a path, over node(n) for its n-th device; check is a backing that keeps what is written, on which the path is made once
        before, to see that it does what it should. Returns whether it could be made.
        """
        nodes, first = [], None
        before = available_bytes()
        try:
            if check:
                check_data(way, check)
            for n in range(devices):
                lab.Interruption.act()
                made = way.make(node(n) if node else None, self.stack, Shape(queues, devices))
                nodes.append(made.node)
                first = first or made
        except Wrong:
            raise
        except (Absent, Failed) as e:
            self.missing(way.name, str(e))
            return False
        # What one device takes drowns in what the machine does meanwhile.
        taken = max(before - available_bytes(), 0) // devices if devices >= FEW else None
        memory = {"server_rss_bytes": sum(map(rss, first.pids)) if first.pids else None, "machine_bytes": taken}
        path = Measured(backing_name, way.name, nodes[0], first.device, nodes=nodes, devices=devices, queues=queues, memory=memory,
                        first_bytes=first.first_bytes, reads_only=first.reads_only)
        self.paths.append(path)
        if devices == 1 and not any((p["name"], p["backing"]) == (way.name, backing_name) for p in self.described):
            self.described.append({
                "name": way.name, "backing": backing_name, "what": way.what, "checked": bool(check),
                "memory": {"server_rss_bytes": memory["server_rss_bytes"]},
            })
        return True


def available_bytes():
    """What the kernel thinks could be given to a new process."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def rss(pid):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0
