# SPDX-License-Identifier: MIT
"""
A program that queues a bad SQE fails that I/O, never the kernel, and the device
counts and shows why. The table has every field of an SQE and every edge of it.
"""

import errno

import cli
import pytest
from blockio import MIB, Opened, pattern
from lab import Lab, sh

pytestmark = pytest.mark.quick_tests(16)

READ, WRITE, FLUSH, DISCARD, ZEROES = 0, 1, 2, 3, 5
NAMES = {READ: "read", WRITE: "write", FLUSH: "flush", DISCARD: "discard", ZEROES: "write_zeroes"}
FIELDS = [
    "none", "opcode", "flags", "ioprio", "fd", "off", "addr", "len", "op_flags", "user_data",
    "buf_index", "personality", "splice_fd", "addr3", "pad2", "sqe_sz", "target",
]
NOP, READV, WRITEV, FSYNC, READ_FIXED, WRITE_FIXED = 0, 1, 2, 3, 4, 5
POLL_ADD, FALLOCATE, OPENAT, SQE_READ, SQE_WRITE, URING_CMD = 6, 17, 18, 22, 23, 46
U64 = 1 << 64
I64 = 1 << 63
# where the request that the program spoils is, and how long
AT, LEN = MIB, 4096

ERRNO = {
    "size": errno.EINVAL, "full": errno.ENOSPC, "flags": errno.EINVAL, "reserved": errno.EINVAL,
    "opcode": errno.EOPNOTSUPP, "fd": errno.EBADF, "direction": errno.EINVAL, "data": errno.EFAULT,
    "len": errno.EINVAL, "off": errno.EINVAL, "rw_flags": errno.EOPNOTSUPP,
    "fsync_flags": errno.EINVAL, "mode": errno.EOPNOTSUPP,
}


def each(reason, op, field, values, **more):
    """A case of each value; in the quick tests the last one stands for them."""
    return [(reason, op, {field: v, **more}) for v in (values if cli.FULL else values[-1:])]


BAD_SQES = [
    *each("size", READ, "sqe_sz", [0, 32, 63, 65, 128]),
    *each("size", READ, "target", [1, 0xFFFFFFFF]),
    *each("full", READ, "times", [9, 16]),
    *each("full", FLUSH, "times", [9]),
    *each("flags", READ, "flags", [2, 8, 16, 32, 64, 128, 255]),
    *each("flags", FLUSH, "flags", [2]),
    *each("reserved", READ, "ioprio", [1, 0xFFFF]),
    *each("reserved", WRITE, "buf_index", [1, 0xFFFF]),
    *each("reserved", READ, "personality", [1, 0xFFFF]),
    *each("reserved", READ, "splice_fd", [1, 0xFFFFFFFF]),
    *each("reserved", READ, "addr3", [1, U64 - 1]),
    *each("reserved", READ, "pad2", [1, 1 << 32]),
    *each("reserved", FLUSH, "off", [1, U64 - 1]),
    *each("reserved", FLUSH, "addr", [1]),
    *each("reserved", FLUSH, "len", [1]),
    *each("reserved", ZEROES, "op_flags", [1, 1 << 31]),
    *each("reserved", READ, "opcode", [NOP]),
    *each("reserved", FLUSH, "op_flags", [1], opcode=NOP),
    *each("opcode", READ, "opcode", [READV, WRITEV, POLL_ADD, OPENAT, URING_CMD, 255]),
    *each("fd", READ, "fd", [1, 2, 16, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 31]),
    *each("fd", FLUSH, "fd", [1]),
    *each("fd", ZEROES, "fd", [1]),
    *each("direction", READ, "opcode", [SQE_WRITE, WRITE_FIXED, FALLOCATE]),
    *each("direction", WRITE, "opcode", [SQE_READ, READ_FIXED, FALLOCATE]),
    *each("direction", FLUSH, "opcode", [SQE_READ, SQE_WRITE, FALLOCATE]),
    *each("direction", ZEROES, "opcode", [SQE_READ, SQE_WRITE]),
    *each("direction", DISCARD, "opcode", [SQE_WRITE]),
    *each("data", READ, "addr", [1, 512, LEN, 1 << 31, 1 << 32, I64, U64 - 512, U64 - 1]),
    *each("data", WRITE, "addr", [1, LEN, 1 << 32, U64 - LEN]),
    *each("data", READ, "len", [LEN + 1, LEN + 512, 0x80000000, 0xFFFFFFFF]),
    *each("data", READ, "addr", [LEN - 512], len=1024),
    # to a driver they would be a bio whose memory is not aligned: wrong bytes, and no error
    *each("data", READ, "addr", [1, 2, 4, 256, 511], len=512),
    *each("data", WRITE, "addr", [256], len=512),
    *each("len", READ, "len", [1, 511, 513, LEN - 1]),
    *each("len", WRITE, "len", [LEN - 256]),
    *each("off", READ, "off", [1, 256, AT + 511]),
    *each("off", WRITE, "off", [AT + 256]),
    *each("len", READ, "len", [0]),
    *each("len", WRITE, "len", [0]),
    *each("len", ZEROES, "addr", [0, LEN + 1, I64, U64 - 1]),
    *each("len", DISCARD, "addr", [0, 1 << 32]),
    *each("off", READ, "off", [I64, U64 - LEN, U64 - 1, I64 - 1, I64 - LEN]),
    *each("off", WRITE, "off", [I64, I64 - LEN]),
    *each("off", ZEROES, "off", [I64, I64 - LEN]),
    *each("rw_flags", READ, "op_flags", [1, 8, 0x10, 0x20, 0x40, 0x80, 1 << 31]),
    *each("rw_flags", WRITE, "op_flags", [0x10, 6 | 8]),
    *each("fsync_flags", FLUSH, "op_flags", [2, 3, 1 << 31]),
    *each("mode", ZEROES, "len", [0, 1, 2, 8, 16, 0x13, 0x20, 0x40, 0x80000003]),
    *each("mode", DISCARD, "len", [0, 0x43]),
]

# not an SQE but the whole plan; errno is EIO for all of them
BAD_PLANS = [
    ("empty", READ, {"times": 0}),
    ("empty", FLUSH, {"times": 0}),
    ("uncovered", WRITE, {"len": 512}),
    ("uncovered", WRITE, {"addr": 512, "len": LEN - 512}),
    ("uncovered", WRITE, {"opcode": FSYNC, "off": 0, "len": 0}),
    ("uncovered", ZEROES, {"addr": 512}),
    ("uncovered", ZEROES, {"addr": LEN - 1}),
    ("uncovered", ZEROES, {"addr": LEN // 2, "times": 2}),  # the same half twice
    ("no_fsync", FLUSH, {"opcode": NOP}),
]

BAD_VERDICTS = [
    *each("verdict", READ, "verdict", [4, 77, -1, 0x7FFFFFFF]),
    *each("verdict", WRITE, "verdict", [4]),
]

GOOD_SQES = [
    *each(None, READ, "flags", [1, 4, 5]),
    *each(None, READ, "user_data", [1, U64 - 1]),
    *each(None, READ, "opcode", [READ_FIXED]),
    *each(None, WRITE, "opcode", [WRITE_FIXED]),
    *each(None, READ, "op_flags", [2, 4]),
    *each(None, WRITE, "op_flags", [2, 4, 6]),
    *each(None, READ, "times", [8]),
    *each(None, WRITE, "times", [8]),
    *each(None, FLUSH, "times", [8]),
    *each(None, FLUSH, "op_flags", [0, 1]),
    *each(None, ZEROES, "len", [0x11]),
]


def case_id(case):
    _, op, fields = case
    what = ",".join(f"{k}={v:#x}" for k, v in fields.items())
    return f"{NAMES[op]}-{what}"


def knobs_of(op, fields):
    knobs = {"op": op, "at_sector": AT // 512}
    numbered = [f for f in fields if f in FIELDS]
    for number, name in enumerate(numbered):
        suffix = str(number + 1) if number else ""
        knobs[f"field{suffix}"] = FIELDS.index(name)
        knobs[f"value{suffix}"] = fields[name]
    knobs.update({k: v for k, v in fields.items() if k not in FIELDS})
    return knobs


def submit(f, op):
    """The one request that the program spoils."""
    if op == READ:
        return f.read(AT, LEN)
    if op == WRITE:
        return f.write(AT, pattern(AT, LEN))
    if op == FLUSH:
        return f.flush()
    if op == DISCARD:
        return f.discard(AT, LEN)
    return f.punch(AT, LEN)


class Target:
    """A device on a file; each case attaches the program anew, with other knobs."""

    def __init__(self, lab):
        self.file = lab.ext4_file(4)
        self.device = lab.add("loop", self.file)
        self.device.attach("badsqe", {"op": 99})
        self.opened = Opened(self.device.path)
        lab.cleanup(self.opened.__exit__)
        self.opened.write(0, pattern(0, 2 * MIB))

    def attach(self, op, fields, **more):
        """Returns the counters and refusals before the first request."""
        info = self.device.attach("badsqe", {**knobs_of(op, fields), **more}, replace=True)
        if op == FLUSH:
            # a flush must sync what this attachment has written
            self.opened.write(0, pattern(0, 512))
            info = self.device.info()
        return self._read(info)

    def read(self):
        return self._read(self.device.info())

    @staticmethod
    def _read(info):
        bpf = info["bpf"]
        return bpf["counters"], {r["reason"]: r["count"] for r in bpf["refused"]}, bpf["last_refused"]

    def still_works(self):
        assert self.opened.read(0, 512) == pattern(0, 512)


@pytest.fixture(scope="module")
def target():
    laboratory = Lab()
    yield Target(laboratory)
    laboratory.close()


def grown(before, after):
    return {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}


def must_fail(target, op):
    with pytest.raises(OSError) as caught:
        submit(target.opened, op)
    assert caught.value.errno == errno.EIO


@pytest.mark.every
@pytest.mark.parametrize("case", BAD_SQES, ids=case_id)
def test_bad_sqe_is_refused_with_its_errno_and_fails_the_request(target, case):
    reason, op, fields = case
    before, refused_before, _ = target.attach(op, fields, expect=ERRNO[reason])
    # the program completes the first request only if the kfunc returned that errno
    submit(target.opened, op)
    # and does not care about the second
    must_fail(target, op)
    after, refused, last = target.read()
    growth = grown(refused_before, refused)
    assert set(growth) == {reason, "plan"}, f"refused: {growth}"
    assert growth[reason] >= 2 and growth["plan"] == 1
    # the SQE and not what followed from it
    assert last["reason"] == reason and last["op"] == NAMES[op]
    counted = grown(before, after)
    assert counted["dropped"] == 1 and counted["aborted"] == 1 and "failed" not in counted
    target.still_works()


def check_bad_plan(target, case):
    reason, op, fields = case
    before, refused_before, _ = target.attach(op, fields)
    must_fail(target, op)
    after, refused, last = target.read()
    assert grown(refused_before, refused) == {reason: 1}
    assert last["reason"] == reason
    assert grown(before, after)["aborted"] == 1
    target.still_works()


@pytest.mark.parametrize("case", BAD_PLANS, ids=case_id)
def test_bad_plan_fails_the_request(target, case):
    check_bad_plan(target, case)


@pytest.mark.parametrize("case", BAD_VERDICTS, ids=case_id)
def test_bad_verdict_fails_the_request(target, case):
    check_bad_plan(target, case)


@pytest.mark.parametrize("case", GOOD_SQES, ids=case_id)
def test_what_is_just_within_the_rules_is_served(target, case):
    _, op, fields = case
    before, refused_before, _ = target.attach(op, fields)
    result = submit(target.opened, op)
    if op == READ:
        assert result == pattern(AT, LEN)
    after, refused, _ = target.read()
    assert refused == refused_before
    counted = grown(before, after)
    assert counted["redirected"] >= 1 and "failed" not in counted and "aborted" not in counted
    with Opened(target.file) as f:
        assert f.read(AT, LEN) == (bytes(LEN) if op == ZEROES else pattern(AT, LEN))
    if op == ZEROES:
        target.opened.write(AT, pattern(AT, LEN))


def test_unaligned_parts_of_a_buffered_file_are_right(lab):
    """Only direct I/O needs to be aligned."""
    file = lab.ext4_file(4)
    device = lab.add("loop", file)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 2 * MIB))
        for addr in (1, 2, 4, 256, 511):
            device.attach("badsqe", knobs_of(READ, {"addr": addr, "len": 700, "off": 3}), replace=True, buffered=True)
            want = bytes(addr) + pattern(0, MIB)[3:703]
            assert f.read(AT, LEN) == want + bytes(LEN - len(want)), f"addr {addr}"
    assert device.refused() == {}


def test_last_refusal_tells_the_sqe(target):
    target.attach(READ, {"off": I64, "op_flags": 4}, expect=errno.EINVAL)
    submit(target.opened, READ)
    _, _, last = target.read()
    assert last["reason"] == "off" and last["op"] == "read" and last["opcode"] == SQE_READ
    assert (last["off"], last["len"], last["fd"], last["value"]) == (I64, LEN, 0, 4)


def test_what_the_file_refuses_is_an_error_and_no_refusal(target):
    """The last offset that a plan may have is far beyond the end of any file."""
    before, refused_before, _ = target.attach(READ, {"off": I64 - LEN - 512})
    with pytest.raises(OSError):
        submit(target.opened, READ)
    after, refused, _ = target.read()
    assert refused == refused_before and after["failed"] == before["failed"] + 1
    target.still_works()


def test_verdict_aborted_fails_without_a_refusal(target):
    before, refused_before, _ = target.attach(WRITE, {"verdict": 0})
    must_fail(target, WRITE)
    after, refused, _ = target.read()
    assert refused == refused_before and after["aborted"] == before["aborted"] + 1


def test_write_to_a_file_that_was_given_for_reading(lab):
    """The command opens files as the device needs them; another loader may not."""
    device, disk = lab.loop_device(8)
    sh(cli.TOOLS / "attach-cycles", "--dev", device.id, "--cycles", 0, "--stay", "--read-only", "--file", disk, cli.program("loop"),
       cli.program("mixed"))
    with Opened(device.path) as f:
        f.read(AT, LEN)
        with pytest.raises(OSError) as failure:
            f.write(AT, pattern(AT, LEN))
    assert failure.value.errno == errno.EIO
    assert device.refused() == {"file_mode": 1, "plan": 1}
    last = device.info()["bpf"]["last_refused"]
    assert last["reason"] == "file_mode"
