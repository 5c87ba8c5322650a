# SPDX-License-Identifier: MIT
"""
Stock kernels, with their own ublk_drv and no BPF: what serves on which data
path. Each test is a cell of docs/matrix.md, and fails if the cell says anything
but what it saw. scripts/matrix writes the document from what this leaves in /out.
"""

import json
import os
import re
import signal
from pathlib import Path

import cli
import matrix
import pytest
from blockio import MIB, Load, Opened, assert_same, checksums, fio_verify, pattern
from lab import Lab

pytestmark = pytest.mark.quick_tests(99)

SERIES = ".".join(os.uname().release.split(".")[:2])
SIZE = 8 * MIB
SEEN = Path("/out/matrix.json")
FAULTS = ["short=512,rate=0.3", "op=write,delay=1ms,rate=0.3"]
LACKS = re.compile(r"this kernel lacks it: needs (UBLK_F_[A-Z_]+(?: and UBLK_F_[A-Z_]+)*) of ublk_drv")


@pytest.fixture(scope="module", autouse=True)
def cells():
    """What was seen, for scripts/matrix; also of tests that then fail."""
    seen = {}
    yield seen
    if SEEN.parent.is_dir():
        SEEN.write_text(json.dumps({"series": SERIES, "release": os.uname().release, "cells": seen}))


@pytest.fixture
def agree(cells):
    """agree(row, cell): the row's cell of this kernel says just that in the document."""

    def check(row, cell):
        cells[row] = cell
        committed = matrix.read_document().get(SERIES, {}).get(row)
        assert committed == cell, (
            f"docs/matrix.md, {row}, {SERIES}: says {committed!r}, seen was {cell!r}; scripts/matrix writes it anew"
        )

    return check


@pytest.fixture(scope="module")
def disk():
    """A file on ext4, the same for all."""
    laboratory = Lab()
    yield laboratory.ext4_file(SIZE // MIB, sparse=False)
    laboratory.close()


@pytest.fixture(scope="module")
def features():
    return {f["name"]: f["available"] for f in cli.probe()["features"]}


def try_add(lab, *args):
    """A device, or the features that the one line of refusal says are lacking."""
    outcome = cli.run("add", *args, "--json")
    if outcome.status == 0:
        device = cli.Device(outcome.json)
        lab.cleanup(device.delete)
        cli.wait_for(device.path, lambda: os.path.exists(device.path))
        return device, None
    lines = outcome.err.strip().splitlines()
    lacks = LACKS.search(outcome.err)
    assert outcome.status == 1 and len(lines) == 1 and lacks, f"neither added nor refused by name: {outcome}"
    assert cli.devices() == [], "what was refused left a device behind"
    return None, lacks.group(1)


def serve_null(device, _):
    with Opened(device.path) as f:
        assert f.read(0, MIB) == bytes(MIB), "old memory came back instead of zeroes"
        f.write(0, pattern(0, MIB))
        f.flush()
        f.discard(0, MIB)
        f.punch(0, MIB)


def serve_file(device, file):
    fio_verify(device.path, bsrange="512-512k", bs_unaligned=0, iodepth=16, size=SIZE, io_size=2 * MIB,
               serialize_overlap=1)
    before = checksums(device.path, SIZE)
    with Opened(device.path) as f:
        f.discard(MIB, MIB)
        f.punch(2 * MIB, MIB)
        f.zeroout(3 * MIB, MIB)
        f.flush()
        assert f.read(MIB, 3 * MIB) == bytes(3 * MIB), "what was discarded and zeroed is no zeroes"
    assert checksums(device.path, SIZE)[4:] == before[4:]
    assert_same(device.path, file, SIZE)


@pytest.mark.every
@pytest.mark.parametrize(("target", "path", "batch"), matrix.SERVED, ids=map(matrix.row_of, matrix.SERVED))
def test_cell(lab, disk, agree, features, target, path, batch):
    args = {
        "null": ["--size", SIZE],
        "loop": ["-f", disk],
        "fault": ["--over", "loop", "-f", disk, *cli.options({"fault": FAULTS})],
    }[target]
    device, lacks = try_add(lab, "-t", target, "-q", 2, "--data-path", path, *args, *(["-b"] if batch else []))
    if device:
        info = device.info()
        assert (info["data_path"], info["batch"], info["bpf_capable"]) == (path, batch, False)
        (serve_null if target == "null" else serve_file)(device, disk)
    names = {f"UBLK_F_{name}": features[probed] for name, probed in matrix.PROBED.items()}
    for lacking in lacks.split(" and ") if lacks else []:
        assert lacking in names, f"{lacking} is no feature that probe shows"
    assert not lacks or not all(names[n] for n in lacks.split(" and ")), f"probe shows {lacks}, add lacks it"
    agree(matrix.row_of((target, path, batch)), f"needs {lacks}" if lacks else matrix.SERVES)


@pytest.mark.every
@pytest.mark.parametrize("mode", matrix.RECOVERY)
def test_recovery(lab, disk, agree, mode):
    device, lacks = try_add(lab, "-t", "loop", "-f", disk, "-q", 2, *matrix.RECOVERY[mode])
    if device:
        assert device.info()["recovery"] == mode
        # what the server has when it dies is done again, or fails
        fails = mode != "reissue"
        with Load(device.path, must_succeed=not fails, size="4m", io_size="512k") as load:
            cli.wait_for("a round of I/O", lambda: load.rounds or load.error)
            pid = device.server_pid()
            os.kill(pid, signal.SIGKILL)
            cli.wait_for(f"server {pid} to be gone", lambda: not os.path.exists(f"/proc/{pid}"))
            cli.ok("recover", "-n", device.id)
            rounds = load.rounds
            cli.wait_for("I/O to go on", lambda: load.rounds > rounds + 1 or load.error)
        assert device.state() == "live" and device.server_pid() != pid
        fio_verify(device.path, bs="4k", iodepth=8, size=MIB)
        assert_same(device.path, disk, SIZE)
    agree(matrix.recovery_row(mode), f"needs {lacks}" if lacks else matrix.SERVES)


def test_default_path(lab, agree):
    path = cli.probe()["data_path"]
    assert lab.add("null").info()["data_path"] == path
    agree(matrix.DEFAULT_ROW, path)


def test_need_get_data_in_batches_is_refused(features):
    outcome = cli.run("add", "-t", "null", "-g", "-b")
    assert outcome.status == 2 and "-b and -g exclude each other" in outcome.err, str(outcome)
    assert cli.devices() == []


def test_programs_are_refused_by_name(lab):
    probe = cli.probe()
    bpf = next(f for f in probe["features"] if f["name"] == "bpf")
    assert probe["face"] == "none" and not bpf["available"] and "module" in bpf["how"]
    device = lab.add("null", size=SIZE)
    outcome = device.try_attach("pass")
    assert outcome.status == 1 and "this kernel has no BPF part of ublk" in outcome.err, str(outcome)
    assert len(outcome.err.strip().splitlines()) == 1
    with Opened(device.path) as f:
        assert f.read(0, 4096) == bytes(4096)


def test_document_has_just_these_rows_and_kernels():
    document = matrix.read_document()
    assert list(document) == matrix.KERNELS
    for series, rows in document.items():
        assert list(rows) == matrix.rows(), f"docs/matrix.md: rows of {series}"
