# SPDX-License-Identifier: MIT
"""
kill -9 of the server under writes, in each recovery mode and on each data path: what was acknowledged is
there, what was not is there whole, in whole sectors, or not at all, nothing hangs, nothing is left behind.
UBLK_BPF_VERIFY_ROUNDS is the number of kills in all (make test-kill: 200).
"""

import errno
import os
import signal
import time

import cli
import leftovers
import pytest
from blockio import MIB, Opened
from cli import wait_for
from ledger import Ledger, Writing, content
from test_paths import features, need  # noqa: F401 (a fixture)

ROUNDS = int(os.environ.get("UBLK_BPF_VERIFY_ROUNDS", "16" if cli.FULL else "8"))
SIZE = 4 * MIB

# options of add, what the kernel calls it
MODES = {
    "none": ({}, "none"),
    "requeue": ({"r": 1}, "requeue"),
    "reissue": ({"r": 1, "i": True}, "reissue"),
    "fail-io": ({"r": 1, "e": True}, "fail_io"),
}
# options of add, the features that it needs, the program that is attached
VARIANTS = {
    "copy": ({"data_path": "copy"}, [], None),
    "auto-zero-copy": ({"data_path": "auto-zero-copy"}, ["auto_buf_reg"], None),
    "user-copy": ({"data_path": "user-copy"}, ["user_copy"], None),
    "need-get-data": ({"data_path": "need-get-data"}, ["need_get_data"], None),
    "zero-copy": ({"data_path": "zero-copy"}, ["zero_copy"], None),
    "batch-copy": ({"data_path": "copy", "b": True}, ["batch_io"], None),
    "batch-auto-zero-copy": ({"data_path": "auto-zero-copy", "b": True}, ["auto_buf_reg", "batch_io"], None),
    "program": ({}, ["bpf"], "randpass"),
}


def cases():
    """(mode, variant, backing, rounds): few rounds go through all modes and variants, many through all pairs of them."""
    modes, variants = list(MODES), list(VARIANTS)
    backings = ["late-disk", "file", "disk"]
    pairs = [
        (modes[(v + shift) % len(modes)], variant, backings[(v + shift) % len(backings)])
        for shift in range(len(modes))
        for v, variant in enumerate(variants)
    ]
    if ROUNDS < 2 * len(pairs):
        pairs = pairs[: max(1, min(ROUNDS, len(variants)))]
    each, more = divmod(ROUNDS, len(pairs))
    return [
        pytest.param(*pair, each + (i < more), id="-".join(pair), marks=[pytest.mark.one_face] if VARIANTS[pair[1]][2] is None else [])
        for i, pair in enumerate(pairs)
    ]


def make_backing(lab, name):
    if name == "file":
        return lab.ext4_file(SIZE // MIB)
    # A disk that answers late has requests in flight whenever the server dies.
    return lab.null_blk(SIZE // MIB, **({"irqmode": 2, "completion_nsec": 500000} if name == "late-disk" else {})).path


class Victim:
    """A device, the server of which is killed."""

    def __init__(self, lab, file, options, program):
        self.lab, self.file, self.options, self.program = lab, file, options, program
        self.device = None
        self.add()

    def add(self):
        self.device = self.lab.add("loop", self.file, q=2, **self.options)
        if self.program:
            self.device.attach(self.program)

    def kill(self):
        os.kill(self.device.server_pid(), signal.SIGKILL)

    def gone(self):
        return not os.path.exists(self.device.path) or self.device.state() == "dead"

    def recover(self):
        cli.ok("recover", "-n", self.device.id)
        assert self.device.state() == "live"


def round_without_recovery(victim, ledger):
    with Writing(ledger, victim.device.path) as writing:
        writing.wait_for_writes(ledger.random.randrange(5, 60))
        victim.kill()
        wait_for("the device to be gone or dead", victim.gone)
    if victim.device.exists():
        victim.device.delete()
    wait_for("the device to be gone", lambda: not os.path.exists(victim.device.path))
    ledger.check(victim.file)
    victim.add()


def round_with_recovery(victim, ledger, mode):
    with Writing(ledger, victim.device.path) as writing:
        writing.wait_for_writes(ledger.random.randrange(5, 60))
        victim.kill()
        if ledger.random.random() < 0.5:  # else at once: recover waits for itself
            wait_for("the server to be missed", lambda: victim.device.state() in ("quiesced", "fail_io"))
        victim.recover()
        recovered = time.monotonic()
        writing.wait_for_all()
        assert writing.errors_since(recovered) == [], "I/O fails after the recovery"
    # EREMOTEIO is what the driver says while there is no server
    allowed = {"requeue": {errno.EIO}, "reissue": set(), "fail-io": {errno.EIO, errno.EREMOTEIO}}[mode]
    assert {code for _, code in writing.errors} <= allowed, writing.errors


@pytest.mark.parametrize("mode,variant,backing,rounds", cases())
def test_no_write_is_lost_or_torn(lab, features, mode, variant, backing, rounds):  # noqa: F811
    options, needs, program = VARIANTS[variant]
    for feature in needs:
        need(features, feature)
    recovery, name = MODES[mode]
    before = leftovers.Census()
    ledger = Ledger(SIZE, seed=f"{mode} {variant}")
    victim = Victim(lab, make_backing(lab, backing), {**options, **recovery}, program)
    assert victim.device.info()["recovery"] == name
    ledger.fill(victim.device.path)
    for _ in range(rounds):
        if mode == "none":
            round_without_recovery(victim, ledger)
        else:
            round_with_recovery(victim, ledger, mode)
        ledger.check(victim.device.path)
    victim.device.delete()
    ledger.check(victim.file)
    before.nothing_new()


def test_a_lost_late_or_torn_write_is_seen(lab):
    """What the test above rests on."""
    file = lab.file(lab.tmp, SIZE)
    ledger = Ledger(SIZE)
    ledger.fill(file)
    with Writing(ledger, file) as writing:
        writing.wait_for_writes(200)
    ledger.check(file)
    slot = next(s for s in ledger.slots if s.acked and s.length >= 4096)
    good = content(slot.index, slot.acked, slot.length)
    for bad in (
        content(slot.index, 0, slot.length),  # lost, or an older one came after it
        good[:2048] + content(slot.index, 0, slot.length)[2048:],  # torn
        good[:100] + bytes(512 - 100) + good[512:],  # in a sector
        content(slot.index + 1, slot.acked, slot.length),  # of another place
        bytes(slot.length),
    ):
        with Opened(file) as f:
            f.write(slot.offset, bad)
        with pytest.raises(AssertionError):
            ledger.check(file)
    with Opened(file) as f:
        f.write(slot.offset, good)
    ledger.check(file)
