# SPDX-License-Identifier: MIT
"""
Data integrity: what was written is what is read, and the device and what is
behind it are the same from end to end. The cases cover every pair of values of
any two factors, as all combinations would take hours under emulation.
"""

import itertools

import pytest
from blockio import MIB, Opened, assert_same, checksums, fio, fio_verify, random_fill

SIZE = 16 * MIB

FACTORS = {
    "backing": ["ext4-full", "ext4-sparse", "raw", "ublk"],
    "mode": ["default", "no_inline", "inline_files", "buffered"],
    "direct": [1, 0],
    "bs": ["512", "4k", "64k", "1m"],
    "iodepth": [1, 8, 32, 128],
    "queues": [1, 2],
}


def pairs_of(case):
    names = list(FACTORS)
    return {
        (a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)
    }


def pairwise():
    """Greedy: the case that covers most of what is not covered yet, until all is."""
    every = [dict(zip(FACTORS, values)) for values in itertools.product(*FACTORS.values())]
    missing = set().union(*map(pairs_of, every))
    cases = []
    while missing:
        best = max(every, key=lambda case: len(pairs_of(case) & missing))
        missing -= pairs_of(best)
        cases.append(best)
    return cases


def case_id(case):
    return "-".join(str(v) for v in case.values())


def make_backing(lab, kind, size=SIZE):
    if kind == "raw":
        disk = lab.null_blk(size // MIB)
        random_fill(disk.path, size)
        return disk.path
    if kind == "ublk":
        inner = lab.add("loop", make_backing(lab, "raw", size))
        inner.attach("loop")
        return inner.path
    return lab.ext4_file(size // MIB, sparse=kind == "ext4-sparse")


def attach_options(mode):
    return {} if mode == "default" else {mode: True}


def data_cases():
    """On the second face those are enough that have each value of a factor once."""
    seen = set()
    for case in pairwise():
        new = set(case.items()) - seen
        seen |= new
        yield pytest.param(case, id=case_id(case), marks=[] if new else [pytest.mark.one_face])


@pytest.mark.parametrize("case", data_cases())
def test_written_data_is_read_back_and_is_in_the_backing(lab, case):
    backing = make_backing(lab, case["backing"])
    device = lab.add("loop", backing, q=case["queues"], d=128)
    before = checksums(backing, SIZE)
    device.attach("loop", **attach_options(case["mode"]))

    # the middle half: what is around it must stay as it was
    small = case["bs"] == "512"
    fio_verify(
        device.path,
        bs=case["bs"],
        iodepth=case["iodepth"],
        direct=case["direct"],
        offset=SIZE // 4,
        size=SIZE // 2,
        io_size=MIB if small else 4 * MIB,
        numjobs=1,
    )
    with Opened(device.path) as f:
        f.flush()
        f.drop_cache()
    after = checksums(device.path, SIZE)
    quarter = SIZE // 4 // MIB
    assert after[:quarter] + after[3 * quarter :] == before[:quarter] + before[3 * quarter :]
    counters = device.counters()
    assert counters["redirected"] > 0 and counters["passed"] == 0 and counters["failed"] == 0
    device.detach()
    assert_same(device.path, backing, SIZE)


@pytest.mark.parametrize("bs", ["512-64k", "4k-1m"])
def test_two_jobs_on_two_queues_with_mixed_sizes(lab, bs):
    backing = make_backing(lab, "raw", 32 * MIB)
    device = lab.add("loop", backing, q=2, d=64)
    device.attach("loop")
    fio_verify(
        device.path, rw="randrw", bsrange=bs, iodepth=32, numjobs=2, size=8 * MIB,
        offset_increment=16 * MIB, io_size=4 * MIB, group_reporting=1, serialize_overlap=1,
    )
    assert_same(device.path, backing, 32 * MIB)


def test_offset_knob_moves_the_device_in_its_file(lab):
    disk = lab.null_blk(32)
    random_fill(disk.path, 32 * MIB)
    before = checksums(disk.path, 32 * MIB)
    device = lab.add("loop", disk.path, offset=8 * MIB, size=16 * MIB)
    device.attach("loop", {"offset": 8 * MIB})
    assert checksums(device.path, 16 * MIB) == before[8:24]
    fio_verify(device.path, bs="64k", iodepth=8, size=16 * MIB)
    inside = checksums(device.path, 16 * MIB)
    after = checksums(disk.path, 32 * MIB)
    assert after[:8] == before[:8] and after[24:] == before[24:] and after[8:24] == inside


def test_concat_splits_what_straddles(lab):
    first, second = lab.null_blk(8), lab.null_blk(8)
    for disk in (first, second):
        random_fill(disk.path, 8 * MIB)
    # an odd border, so that many requests straddle it
    split = (4 * MIB + 512 * 3) // 512
    device = lab.add("null", size=8 * MIB)
    device.attach("concat", {"split_sectors": split}, file=[first.path, second.path])
    fio_verify(device.path, bs="64k", iodepth=16, size=8 * MIB)
    fio_verify(device.path, bsrange="512-64k", bs_unaligned=0, iodepth=4, offset=4 * MIB - 65536,
               size=131072, serialize_overlap=1)
    with Opened(device.path) as d, Opened(first.path) as a, Opened(second.path) as b:
        d.flush()
        whole = d.read(0, 8 * MIB)
        left = a.read(0, 8 * MIB)[: split * 512]
        right = b.read(0, 8 * MIB)[: 8 * MIB - split * 512]
    assert whole == left + right
    counters = device.counters()
    assert counters["sqes"] > counters["redirected"], "no request was split"


def test_what_changes_data_goes_to_two_files(lab):
    a, b = (lab.null_blk(16).path for _ in range(2))
    device = lab.add("null", size=16 * MIB)
    device.attach("copies", file=[a, b])
    fio_verify(device.path, bs="64k", iodepth=8, size=16 * MIB)
    assert_same(a, b, 16 * MIB)
    device.attach("copies", {"read_from": 1}, file=[a, b], replace=True)
    assert_same(device.path, a, 16 * MIB)


def test_server_and_program_share_a_device(lab):
    device, disk = lab.loop_device(16, q=2)
    device.attach("mixed")
    fio_verify(device.path, bs="4k", iodepth=32, size=16 * MIB, io_size=8 * MIB)
    counters = device.counters()
    assert counters["passed"] > 100 and counters["redirected"] > 100
    assert_same(device.path, disk, 16 * MIB)


def test_plan_of_a_passed_request_is_forgotten(lab):
    device, _ = lab.loop_device(8)
    other = lab.null_blk(8)
    random_fill(other.path, 8 * MIB)
    before = checksums(other.path, 8 * MIB)
    device.attach("pass", file=other.path)
    fio_verify(device.path, bs="4k", iodepth=8, size=4 * MIB, io_size=2 * MIB)
    counters = device.counters()
    assert counters["passed"] > 0 and counters["redirected"] == 0
    assert checksums(other.path, 8 * MIB) == before


def test_program_in_two_functions_serves(lab):
    device, disk = lab.loop_device(8)
    device.attach("subprog")
    fio_verify(device.path, bs="4k", iodepth=8, size=8 * MIB, io_size=2 * MIB)
    assert_same(device.path, disk, 8 * MIB)


def test_null_drops_writes_and_reads_zeroes(lab):
    device, disk = lab.loop_device(8)
    random_fill(disk, 8 * MIB)
    before = checksums(disk, 8 * MIB)
    device.attach("null")
    with Opened(device.path) as f:
        f.write(0, b"\xa5" * 65536)
        assert f.read(0, MIB) == bytes(MIB), "old memory came back instead of zeroes"
        f.flush()
    fio(device.path, rw="randrw", bs="4k", iodepth=16, size=8 * MIB, io_size=MIB)
    assert checksums(disk, 8 * MIB) == before
    counters = device.counters()
    assert counters["dropped"] > 0 and counters["redirected"] == 0


def test_buffered_device_io_larger_than_one_bio(lab):
    """Readahead and writeback make requests of many bios."""
    device, disk = lab.loop_device(32, q=2)
    device.attach("loop")
    fio_verify(device.path, rw="write", bs="1m", iodepth=1, ioengine="psync", direct=0, size=32 * MIB)
    assert_same(device.path, disk, 32 * MIB)


@pytest.mark.parametrize("block_size", [512, 4096])
def test_block_size_of_the_device(lab, block_size):
    disk = lab.null_blk(16, blocksize=block_size)
    device = lab.add("loop", disk.path, block_size=block_size)
    device.attach("loop")
    fio_verify(device.path, bs=block_size, iodepth=8, size=8 * MIB, io_size=MIB)
    assert_same(device.path, disk.path, 16 * MIB)
