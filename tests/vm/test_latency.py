# SPDX-License-Identifier: MIT
"""latency notes how long requests take, and `stat` shows it."""

import json
import subprocess
import time

import cli
import pytest
from blockio import MIB, Opened, fio, fio_verify, pattern
from test_complete import BIOS, bad_blocks
from test_kill import kill_server, quiesced

# what is asked of the kernel here is in the engine, which both faces share
pytestmark = pytest.mark.one_face

SLOW_NS = 20_000_000


def stat(device, *args):
    told = cli.ok("stat", "-n", device.id, *args)
    return {op["op"]: op for op in told["operations"]}


def counts(device):
    return {name: op["count"] for name, op in stat(device).items() if op["count"]}


def test_each_request_is_counted_once_by_its_operation(lab):
    device = lab.add("loop", lab.ext4_file(16), q=2)
    device.attach("latency")
    before = counts(device)
    redirected = device.counters()["redirected"]
    with Opened(device.path) as f:
        for nth in range(10):
            f.write(nth * 4096, bytes(4096))
        for nth in range(20):
            f.read(nth * 4096, 4096)
        f.flush()
        f.discard(MIB, MIB)
        f.zero_range(2 * MIB, MIB)
    fio(device.path, rw="randread", bs="4k", iodepth=32, io_size=4 * MIB)
    after = stat(device)
    # those whose shape we know; others may read the device, too
    assert after["write"]["count"] == before.get("write", 0) + 10
    assert after["read"]["count"] >= before.get("read", 0) + 20 + 1024
    assert all(after[op]["count"] > before.get(op, 0) for op in ("flush", "discard", "write_zeroes"))
    for op in after.values():
        assert op["count"] == sum(b["count"] for b in op["buckets"]) and op["errors"] == 0
    total = sum(op["count"] for op in after.values()) - sum(before.values())
    assert total == device.counters()["redirected"] - redirected
    fio_verify(device.path, bs="16k", iodepth=8, io_size=MIB)


def test_any_mapping_can_be_timed(lab):
    """A request of two SQEs is one request."""
    halves = [lab.ext4_file(8), lab.ext4_file(8)]
    device = lab.add("null", size="16M")
    device.attach("timed", {"split_sectors": 8 * MIB // 512}, file=halves)
    before = counts(device)
    with Opened(device.path) as f:
        f.write(0, pattern(0, 4096))
        f.write(8 * MIB - 4096, pattern(8 * MIB - 4096, 8192))
        f.flush()
        assert f.read(8 * MIB - 4096, 8192) == pattern(8 * MIB - 4096, 8192)
    after = counts(device)
    assert after["write"] - before.get("write", 0) == 2 and after["flush"] - before.get("flush", 0) == 1
    assert stat(device)["write"]["mean_ns"] < 30e9, "the time at which a request came was lost"


@BIOS
def test_times_are_those_of_the_disk(lab, requests):
    disk = lab.null_blk(8, irqmode=2, completion_nsec=SLOW_NS)
    device = lab.add("loop", disk.path)
    device.attach("latency", requests=requests)
    before = stat(device)["read"]
    with Opened(device.path) as f:
        for nth in range(5):
            f.read(nth * MIB, 4096)
    read = stat(device)["read"]
    assert read["count"] >= before["count"] + 5 and read["mean_ns"] >= SLOW_NS
    assert min(b["from_ns"] for b in read["buckets"]) == 1 << 24, read
    assert read["p50_below_ns"] > SLOW_NS and read["p99_below_ns"] >= read["p50_below_ns"]


def test_failed_requests_are_counted(lab):
    disk = lab.null_blk(8)
    device = lab.add("loop", disk.path)
    device.attach("latency")
    bad_blocks(disk, 65536, 4096)
    before = stat(device)["read"]
    with Opened(device.path) as f:
        for _ in range(3):
            with pytest.raises(OSError):
                f.read(65536, 4096)
    read = stat(device)["read"]
    assert read["errors"] >= before["errors"] + 3 and read["count"] >= before["count"] + 3


def test_intervals_show_what_has_come_since(lab):
    device, _ = lab.loop_device(8, r=1)
    device.attach("latency")
    with Opened(device.path) as f:
        for _ in range(100):
            f.write(0, bytes(512))
        argv = [cli.COMMAND, "stat", "-n", str(device.id), "--interval", "1", "--count", "2", "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watching:
            during = 0
            while watching.poll() is None:
                f.write(0, bytes(512))
                during += 1
                time.sleep(0.1)
            told = [json.loads(line) for line in watching.stdout]
    writes = [next(op["count"] for op in one["operations"] if op["op"] == "write") for one in told]
    assert len(writes) == 2 and min(writes) > 0 and sum(writes) <= during < 100, f"{writes} of {during}"
    # without its server, and when another program has taken its place
    kill_server(device)
    quiesced(device)
    assert counts(device)["write"] == 100 + during
    device.attach("latency", replace=True, keep_maps=True)
    assert counts(device)["write"] == 100 + during
    device.attach("latency", replace=True)
    assert counts(device).get("write", 0) == 0
    text = cli.run("stat", "-n", device.id)
    assert text.status == 0 and f"dev id {device.id}: program id" in text.out, str(text)
    cli.ok("recover", "-n", device.id)


def test_what_keeps_no_times_is_refused(lab):
    device, _ = lab.loop_device(8)
    for attach, words in ((None, "has no program attached"), ("loop", "has no map ublk_latency")):
        if attach:
            device.attach(attach)
        refused = cli.run("stat", "-n", device.id)
        assert refused.status == 1 and words in refused.err, str(refused)
    assert cli.run("stat", "-n", 999).status == 1
