# SPDX-License-Identifier: MIT
"""I/O on block devices and files, one operation at a time, and fio."""

import ctypes
import fcntl
import json
import mmap
import os
import struct
import subprocess
import threading
import zlib
from array import array

from cli import seconds

BLKFLSBUF = 0x1261
BLKDISCARD = 0x1277
BLKZEROOUT = 0x127F
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16
MIB = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def aligned(data):
    """A page-aligned buffer with this content, as direct I/O needs it."""
    buf = mmap.mmap(-1, max(len(data), 1))
    buf[: len(data)] = data
    return buf


class Opened:
    """An open file; direct unless told otherwise."""

    def __init__(self, path, direct=True, flags=os.O_RDWR):
        self.fd = os.open(path, flags | (os.O_DIRECT if direct else 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def read(self, offset, length):
        buf = mmap.mmap(-1, length)
        buf[:] = b"\xa5" * length  # what is not read must not look like zeroes
        done = os.preadv(self.fd, [buf], offset)
        return buf[:done]

    def write(self, offset, data, flags=0):
        done = os.pwritev(self.fd, [aligned(data)], offset, flags)
        assert done == len(data), f"short write: {done} of {len(data)} bytes"

    def flush(self):
        os.fsync(self.fd)

    def discard(self, offset, length):
        fcntl.ioctl(self.fd, BLKDISCARD, struct.pack("QQ", offset, length))

    def zeroout(self, offset, length):
        """Write zeroes, space is kept (UBLK_IO_F_NOUNMAP); may fall back to writing."""
        fcntl.ioctl(self.fd, BLKZEROOUT, struct.pack("QQ", offset, length))

    def punch(self, offset, length):
        """Write zeroes that may free space; never falls back to writing."""
        self._fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)

    def zero_range(self, offset, length):
        self._fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)

    def _fallocate(self, mode, offset, length):
        if libc.fallocate(self.fd, mode, offset, length):
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno))

    def drop_cache(self):
        fcntl.ioctl(self.fd, BLKFLSBUF, 0)


def checksums(path, size):
    """The crc32 of each MiB."""
    sums = []
    with Opened(path, flags=os.O_RDONLY) as f:
        for offset in range(0, size, MIB):
            sums.append(zlib.crc32(f.read(offset, min(MIB, size - offset))))
    return sums


def assert_same(left, right, size):
    """Both have the same content, read past the page cache."""
    a, b = checksums(left, size), checksums(right, size)
    differ = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
    assert not differ, f"{left} and {right} differ in MiB {differ[:10]} (of {len(a)})"


def pattern(offset, length, seed=1):
    """Bytes that tell where they belong and who wrote them."""
    first = (seed << 40) + (offset >> 3)
    return array("Q", range(first, first + length // 8)).tobytes()


def random_fill(path, size):
    """Unpredictable content from end to end."""
    with Opened(path, flags=os.O_WRONLY) as f:
        for offset in range(0, size, MIB):
            f.write(offset, os.urandom(min(MIB, size - offset)))


def fio(path, check=True, timeout=180, **job):
    """One fio job on a device or file; returns the job's result from the JSON."""
    job = {"ioengine": "libaio", "direct": 1, "thread": 1, "allow_file_create": 0, "verify_state_save": 0, **job}
    argv = ["fio", "--output-format=json", "--name=job", f"--filename={path}"]
    argv += [f"--{k}={v}" for k, v in job.items()]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=seconds(timeout), check=False
    )
    if check:
        assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-3000:]}\n{done.stderr}"
    text = done.stdout[done.stdout.find("{") :]
    try:
        result = json.loads(text)["jobs"][0]
    except (ValueError, LookupError) as e:
        assert not check, f"{' '.join(argv)}: no JSON ({e})\n{done.stdout}\n{done.stderr}"
        return None
    if check:
        assert result["error"] == 0, f"{' '.join(argv)}: error {result['error']}"
    return result


def fio_verify(path, **job):
    """Writes at random, then reads back and checks each block's crc32c."""
    return fio(path, **{"rw": "randwrite", "verify": "crc32c", "verify_fatal": 1, **job})


class Load:
    """Verified I/O in the background, in rounds, until stopped."""

    def __init__(self, path, must_succeed=True, **job):
        self.path, self.must_succeed = path, must_succeed
        self.job = {"bs": "4k", "iodepth": 8, "size": "4m", **job}
        self.rounds, self.error = 0, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            while not self._stop.is_set():
                fio_verify(self.path, check=self.must_succeed, randseed=self.rounds + 1, **self.job)
                self.rounds += 1
                if not self.must_succeed and not os.path.exists(self.path):
                    break
        except BaseException as e:  # handed to whoever stops it
            self.error = e

    def __enter__(self):
        self._thread.start()
        return self

    def check(self):
        """Raises what the load has failed with so far."""
        if self.error:
            raise self.error

    def __exit__(self, exc_type, *_):
        self._stop.set()
        self._thread.join(seconds(180))
        if exc_type is None:
            assert not self._thread.is_alive(), f"I/O on {self.path} hangs"
            self.check()
            assert self.rounds or not self.must_succeed, "not one round of I/O was done"
