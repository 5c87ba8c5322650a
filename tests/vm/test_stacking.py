# SPDX-License-Identifier: MIT
"""What is below a device changes, is of an odd kind, or can do less than the device promises: nothing hangs, no data is wrong."""

import ctypes
import errno
import os
import socket
import subprocess

import cli
import pytest
from blockio import MIB, Load, Opened, aligned, assert_same, fio_verify, pattern
from cli import wait_for
from lab import sh, write_file
from test_fuzz import schedulers
from test_paths import features, need  # noqa: F401 (a fixture)

ATTACH_F_NO_INLINE = 2


def attach_fds(device, fds, name="loop", flags=0):
    """Attaches what is open already; returns the kernel's errno, or 0."""
    args = [arg for fd in fds for arg in ("--fd", str(fd))]
    done = subprocess.run(
        [cli.TOOLS / "attach-fd", "--dev", str(device.id), "--flags", str(flags), *args, cli.program(name)],
        pass_fds=fds, capture_output=True, text=True, timeout=cli.seconds(60), check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


libc = ctypes.CDLL(None, use_errno=True)
SYS_USERFAULTFD, SYS_IO_URING_SETUP, SYS_MEMFD_SECRET = 323, 425, 447


def system_call(number, *args):
    """A descriptor, or None where the kernel has no such call."""
    fd = libc.syscall(number, *args)
    if fd < 0:
        code = ctypes.get_errno()
        if code == errno.ENOSYS:
            return None
        raise OSError(code, os.strerror(code))
    return fd


def signalfd():
    mask = (ctypes.c_ulong * 16)()
    return libc.signalfd(-1, mask, 0)


# open files that are neither a regular file nor a block device, though some of them say that they are regular
ODD_FILES = {
    "userfaultfd": lambda: system_call(SYS_USERFAULTFD, 0),
    "memfd_secret": lambda: system_call(SYS_MEMFD_SECRET, 0),
    "io_uring": lambda: system_call(SYS_IO_URING_SETUP, 4, (ctypes.c_uint * 64)()),
    "epoll": lambda: libc.epoll_create1(0),
    "eventfd": lambda: os.eventfd(1),
    "timerfd": lambda: libc.timerfd_create(1, 0),
    "signalfd": signalfd,
    "inotify": lambda: libc.inotify_init(),
    "pidfd": lambda: os.pidfd_open(os.getpid()),
    "pipe": lambda: os.pipe()[0],
    "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "directory": lambda: os.open("/", os.O_RDONLY),
    "character-device": lambda: os.open("/dev/zero", os.O_RDWR),
    "mount-namespace": lambda: os.open("/proc/self/ns/mnt", os.O_RDONLY),
}


def test_files_that_are_no_files_are_refused(lab):
    device = lab.add("null", size=MIB)
    accepted = {}
    for name, make in ODD_FILES.items():
        fd = make()
        if fd is None:
            continue
        assert fd >= 0, name
        code = attach_fds(device, [fd])
        os.close(fd)
        if code == 0:
            device.detach()
        if code != errno.EINVAL:
            accepted[name] = code
    assert not accepted, f"errno of what was not refused with EINVAL: {accepted}"


def test_path_without_a_file_is_refused(lab):
    device = lab.add("null", size=MIB)
    fd = os.open(lab.tmp, os.O_PATH)
    assert attach_fds(device, [fd]) == errno.EBADF
    os.close(fd)


def test_memory_file_is_a_file(lab):
    device = lab.add("null", size=4 * MIB)
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 4 * MIB)
    assert attach_fds(device, [fd]) == 0
    fio_verify(device.path, bs="4k", iodepth=8, size="4m")
    with Opened(device.path) as f:
        f.write(MIB, pattern(MIB, 65536))
    assert os.pread(fd, 65536, MIB) == pattern(MIB, 65536)
    os.close(fd)


@pytest.mark.parametrize("buffered", [False, True], ids=["direct", "buffered"])
def test_backing_that_is_made_read_only_takes_no_write(lab, buffered):
    device, disk = lab.loop_device(8)
    device.attach("loop", buffered=buffered)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 65536))
        f.flush()
        sh("blockdev", "--setro", disk)
        lab.cleanup(sh, "blockdev", "--setrw", disk)
        for write in (lambda: f.write(0, b"\xff" * 4096), lambda: f.discard(0, 65536), lambda: f.punch(0, 65536)):
            with pytest.raises(OSError):
                write()
        assert f.read(0, 65536) == pattern(0, 65536)
        sh("blockdev", "--setrw", disk)
        f.write(65536, pattern(65536, 65536))
        f.flush()
    with Opened(disk) as f:
        assert f.read(0, 131072) == pattern(0, 131072)


@pytest.mark.parametrize("flags", [0, ATTACH_F_NO_INLINE], ids=["inline", "worker"])
def test_scheduler_of_the_backing_is_changed_under_io(lab, flags):
    for module in ("kyber-iosched", "mq-deadline", "bfq"):
        sh("modprobe", "-q", module, check=False)
    disk = lab.null_blk(16, irqmode=2, completion_nsec=50000)
    device = lab.add("loop", disk.path, q=2)
    device.attach("loop", no_inline=bool(flags))
    paths = [disk.path, device.path]
    with Load(device.path, size="8m", io_size="2m", iodepth=32) as load:
        for n in range(40):
            path = paths[n % 2]
            names = schedulers(path)
            write_file(f"/sys/class/block/{os.path.basename(path)}/queue/scheduler", names[n // 2 % len(names)])
            load.check()
        rounds = load.rounds
        wait_for("a round of I/O", lambda: load.error or load.rounds > rounds, 120)
    assert device.counters()["failed"] == 0
    assert_same(device.path, disk.path, 16 * MIB)


def vectors(data, lengths):
    """The data in pieces of memory, none of which begins where a page does or the last one ended."""
    parts, at = [], 0
    for n, length in enumerate(lengths):
        shift = 512 * (n % 7)
        buf = aligned(bytes(shift) + data[at : at + length])
        parts.append(memoryview(buf)[shift : shift + length])
        at += length
    return parts


@pytest.mark.parametrize(
    "attrs", [{"virt_boundary": 1}, {"max_sectors": 8}, {"virt_boundary": 1, "irqmode": 2, "completion_nsec": 10000}],
    ids=["virt-boundary", "small", "virt-boundary-late"],
)
def test_memory_in_pieces_reaches_a_backing_with_narrower_limits(lab, attrs):
    disk = lab.null_blk(8, **attrs)
    device = lab.add("loop", disk.path)
    device.attach("loop")
    lengths = [512, 4096, 1024, 512, 8192, 3584, 512]
    total, offset = sum(lengths), MIB
    data = pattern(offset, total)
    fd = os.open(device.path, os.O_RDWR | os.O_DIRECT)
    lab.cleanup(os.close, fd)
    assert os.pwritev(fd, vectors(data, lengths), offset) == total
    parts = vectors(b"\xa5" * total, lengths[::-1])
    assert os.preadv(fd, parts, offset) == total
    assert b"".join(map(bytes, parts)) == data
    with Opened(disk.path) as f:
        assert f.read(offset, total) == data
    fio_verify(device.path, bs="64k", iodepth=16, size="4m")
    assert device.counters()["failed"] == 0


@pytest.mark.parametrize("how,batch", [("quiesce", False), ("takeover", False), ("quiesce", True)],
                         ids=["quiesce", "takeover", "quiesce-batch"])
def test_redirected_io_goes_on_while_the_server_goes(lab, features, how, batch):  # noqa: F811
    """In batches the driver fails what waits for the server: requests that a program has redirected are not among it."""
    need(features, "batch_io" if batch else None)
    disk = lab.null_blk(16, irqmode=2, completion_nsec=3_000_000)
    device = lab.add("loop", disk.path, r=1, b=batch, q=2)
    device.attach("loop")
    with Load(device.path, size="8m", io_size="1m", iodepth=32) as load:
        for _ in range(3):
            before = device.counters()["redirected"]
            wait_for("I/O", lambda b=before: load.error or device.counters()["redirected"] > b + 50)
            cli.ok(how, "-n", device.id, *(["--fail-io"] if batch else []))
            load.check()
            if how == "quiesce":
                before = device.counters()["redirected"]
                wait_for("I/O without a server", lambda b=before: load.error or device.counters()["redirected"] > b + 50)
                cli.ok("recover", "-n", device.id)
        rounds = load.rounds
        wait_for("a round of I/O", lambda: load.error or load.rounds > rounds, 120)
    assert device.counters()["failed"] == 0
    assert_same(device.path, disk.path, 16 * MIB)
