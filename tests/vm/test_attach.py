# SPDX-License-Identifier: MIT
"""Programs come, go and are replaced while I/O runs, and nobody notices."""

import os
import time
from pathlib import Path

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, fio, fio_verify, pattern
from lab import sh

pytestmark = pytest.mark.quick_tests(7)

# how often the device goes from the server to a program, to another one, and back
CYCLES = int(os.environ.get("UBLK_BPF_CYCLES", "500" if cli.FULL else "100"))
COMMAND_CYCLES = 10


def open_files():
    """In the whole system, also those that only the kernel holds."""
    return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])


def test_attach_replace_and_detach_under_verified_io(lab):
    device, disk = lab.loop_device(16, q=2)
    wakeups, files = device.info()["server"]["wakeups"], open_files()
    objects = cli.program("loop"), cli.program("mixed")
    args = "--dev", device.id, "--cycles", CYCLES, "--pause-us", 3000, "--file", disk, *objects
    with Load(device.path, offset=0, size="8m", io_size="2m", iodepth=16) as load:
        sh(cli.TOOLS / "attach-cycles", *args, timeout=300)
        load.check()
    info = device.info()
    assert info["bpf"]["attached"] is False
    counters = info["bpf"]["counters"]
    assert counters["nr_attach"] == 2 * CYCLES
    assert counters["failed"] == 0 and counters["aborted"] == 0
    # all of them had I/O: programs, the one that passes some, and the server
    assert counters["redirected"] > CYCLES and counters["passed"] > CYCLES // 4
    assert info["server"]["wakeups"] > wakeups + CYCLES // 4
    assert open_files() < files + CYCLES // 4, "files of programs that are gone are open"
    assert_same(device.path, disk, 16 * MIB)


@pytest.mark.full
def test_command_attaches_replaces_and_detaches_under_verified_io(lab):
    device, disk = lab.loop_device(16, q=2)
    steps = [("loop", {}), ("mixed", {"replace": True}), ("subprog", {"replace": True, "no_inline": True})]
    attached = 0
    with Load(device.path, offset=0, size="8m", io_size="2m", iodepth=16) as load:
        for _ in range(COMMAND_CYCLES):
            for name, opts in steps:
                device.attach(name, **opts)
                attached += 1
                load.check()
            device.detach()
    info = device.info()["bpf"]
    assert info["attached"] is False
    assert info["counters"]["nr_attach"] == attached
    assert info["counters"]["failed"] == 0 and info["counters"]["aborted"] == 0
    assert info["counters"]["redirected"] > 0
    assert_same(device.path, disk, 16 * MIB)


def test_replaced_programs_files_are_closed(lab):
    """A file system can be unmounted as soon as no attached file is on it."""
    device = lab.add("null", size=8 * MIB)
    places = [lab.ext4(32) for _ in range(3)]
    files = [lab.file(where, 8 * MIB) for where in places]
    device.attach("loop", file=files[0])
    with Load(device.path, size="4m", io_size="1m") as load:
        for old, new in ((0, 1), (1, 2)):
            before = load.rounds
            # nobody else may find what he wrote on the other file
            device.attach("copies", file=[files[old], files[new]], replace=True)
            cli.wait_for("a round of I/O on both", lambda b=before: load.rounds > b + 1 or load.error, 120)
            load.check()
            device.attach("copies", {"read_from": 0}, file=[files[new], files[new]], replace=True)
            assert sh("umount", places[old], check=False).returncode == 0, "its file is still open"
    device.detach()
    assert sh("umount", places[2], check=False).returncode == 0, "its file is still open"


def test_second_attach_is_refused_unless_it_replaces(lab):
    device, _ = lab.loop_device(8)
    device.attach("loop")
    before = device.info()["bpf"]
    refused = device.try_attach("null")
    assert refused.status == 1 and refused.json["error"]["errno"] == "EBUSY", str(refused)
    assert "--replace" in refused.err
    assert device.info()["bpf"] == before
    device.attach("null", replace=True)
    now = device.info()["bpf"]
    assert now["program"] == "null" and now["prog_id"] != before["prog_id"]


def test_attachment_outlives_the_command(lab):
    device, _ = lab.loop_device(8)
    device.attach("loop", {"offset": 0})
    # each a new process
    bpf = device.info()["bpf"]
    assert bpf["attached"] and bpf["program"] == "loop" and bpf["prog_id"] > 0
    assert bpf["object"] == cli.program("loop") and bpf["knobs"].get("offset") == 0
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)
    assert device.counters()["redirected"] > 0
    device.detach()
    assert device.info()["bpf"]["attached"] is False
    assert cli.run("detach", "--dev", device.id).status == 1


def test_attach_without_files_takes_those_of_the_target(lab):
    device, disk = lab.loop_device(8)
    device.attach("loop")
    assert device.info()["bpf"]["files"] == [disk]


def test_counters_outlive_the_attachment(lab):
    device, _ = lab.loop_device(8)
    device.attach("loop")
    with Opened(device.path) as f:
        f.write(0, bytes(4096))
    device.detach()
    assert device.counters()["redirected"] >= 1


def test_redirected_io_never_wakes_the_server(lab):
    device, _ = lab.loop_device(16, q=2)
    device.attach("loop")
    before = device.info()["server"]
    for job in ({"iodepth": 1}, {"iodepth": 32, "numjobs": 2}):
        fio(device.path, rw="randrw", bs="4k", size=8 * MIB, io_size=MIB, **job)
    with Opened(device.path) as f:
        f.flush()
    after = device.info()["server"]
    assert after["wakeups"] == before["wakeups"]
    assert device.counters()["redirected"] > 500

    # and the same number does grow when it is the server who works
    device.detach()
    fio(device.path, rw="randrw", bs="4k", size=8 * MIB, io_size=MIB, iodepth=1)
    assert device.info()["server"]["wakeups"] > after["wakeups"] + 50


@pytest.mark.skipif(cli.SANITIZED, reason="the sanitizer's own thread does")
@pytest.mark.parametrize("attached", [False, True])
def test_idle_device_uses_no_cpu(lab, attached):
    device, _ = lab.loop_device(8)
    if attached:
        device.attach("loop")
    before = device.info()["server"]
    time.sleep(2)  # what is measured is that nothing happens meanwhile
    after = device.info()["server"]
    assert after["wakeups"] == before["wakeups"] and after["cpu_ns"] == before["cpu_ns"]


@pytest.mark.parametrize("mode", ["no_inline", "inline_files", "buffered"])
def test_modes_of_attachment(lab, mode):
    file = lab.ext4_file(8)
    device = lab.add("loop", file)
    device.attach("loop", **{mode: True})
    with Opened(device.path) as f:
        f.write(MIB, pattern(MIB, 65536))
        f.flush()
        assert f.read(MIB, 65536) == pattern(MIB, 65536)
    counters = device.counters()
    if mode == "no_inline":
        assert counters["deferred"] >= counters["sqes"]
    else:
        # of what is buffered, what is read is in the page cache
        assert counters["deferred"] < counters["sqes"]
    assert_same(device.path, file, 8 * MIB)


def test_what_is_in_the_page_cache_is_read_in_the_submitters_context(lab):
    file = lab.ext4_file(8)
    device = lab.add("loop", file)
    device.attach("loop", buffered=True)

    def deferred_by_a_read():
        before = device.counters()
        with Opened(device.path) as f:
            f.read(MIB, 65536)
        after = device.counters()
        assert after["sqes"] == before["sqes"] + 1
        return after["deferred"] - before["deferred"]

    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    assert deferred_by_a_read() == 1
    assert deferred_by_a_read() == 0


def test_raw_device_is_served_in_the_submitters_context(lab):
    device, _ = lab.loop_device(8)
    device.attach("loop")
    fio(device.path, rw="randread", bs="4k", size=8 * MIB, io_size=MIB, iodepth=8)
    counters = device.counters()
    assert counters["deferred"] <= counters["sqes"] // 20


@pytest.mark.parametrize("rw", ["read", "write"])
def test_what_comes_in_a_row_is_merged_for_a_file(lab, rw):
    """A file merges nothing by itself; what comes at random stays bios."""
    device = lab.add("loop", lab.ext4_file(8, sparse=False))
    device.attach("loop", requests=False)
    job = {"bs": "4k", "size": 4 * MIB, "iodepth": 32, "iodepth_batch": 32, "iodepth_batch_complete_min": 32, "iodepth_low": 1}

    def requests_of(kind):
        before = device.counters()["redirected"]
        ios = sum(fio(device.path, rw=kind, **job)[op]["total_ios"] for op in ("read", "write"))
        return (device.counters()["redirected"] - before) / ios

    assert requests_of(rw) < 0.5
    assert requests_of(f"rand{rw}") > 0.9
    assert device.counters()["bios"] > 0


def test_driver_data_of_a_request_is_small(lab):
    if os.path.exists("/proc/lockdep"):
        pytest.skip("lockdep keeps its maps in the work items of a request's driver data")
    device, _ = lab.loop_device(8)
    device.attach("loop")
    info = device.info()["bpf"]
    assert 0 < info.get("pdu_bytes", info["counters"].get("pdu_bytes")) <= 1024


def test_two_devices_have_programs_of_their_own(lab):
    (first, a), (second, b) = lab.loop_device(8), lab.loop_device(8)
    first.attach("loop")
    second.attach("null")
    for device in (first, second):
        with Opened(device.path) as f:
            f.write(0, b"\x77" * 4096)
    with Opened(a) as f, Opened(b) as g:
        assert f.read(0, 4096) == b"\x77" * 4096
        assert g.read(0, 4096) == bytes(4096)
