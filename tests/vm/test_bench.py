# SPDX-License-Identifier: MIT
"""
ublk-bpf bench on a host, which this machine is here: what it measures, that nothing is left of it, whom it refuses to touch. The figures
themselves are bench/'s business.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import cli
import pytest

# about the server, not about the face
pytestmark = [pytest.mark.one_face, pytest.mark.quick_tests(2)]

BENCH = [str(cli.COMMAND), "bench"]
LOAD = cli.TREE / "build/bench/load"
needs_tracing = pytest.mark.skipif(not cli.TRACEPOINTS, reason="this kernel has no tracepoints, which CPU time is told by")


def bench(*args, cwd, expect=0):
    done = subprocess.run([*BENCH, *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False, timeout=cli.seconds(300))
    assert done.returncode == expect, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def machine():
    """All that a run makes."""
    null_blk = Path("/sys/kernel/config/nullb")
    return {
        "ublk": sorted(p.name for p in Path("/dev").glob("ublkc[0-9]*")),
        "loop": subprocess.run(["losetup", "-l", "-n"], capture_output=True, text=True, check=True).stdout,
        "dm": sorted(p.name for p in Path("/sys/block").glob("dm-*")),
        "nbd": sorted(p.name for p in Path("/sys/block").glob("nbd*") if (p / "pid").exists()),
        "null_blk": sorted(p.name for p in null_blk.iterdir() if p.is_dir()) if null_blk.exists() else [],
    }


def figures(result):
    return {(c["path"], c["rw"], c["bs"], c["qd"]): c for c in result["cells"]}


@pytest.mark.full
@needs_tracing
def test_host_measures_null_blk_and_takes_all_of_it_away(lab):
    before = machine()
    bench("--host", "--part", "paths", "--job", "read-4k-qd1", "--job", "write-64k-qd32", "--rounds", 1, "--path", "raw", "--path", "kernel loop", "--path", "dm-linear", "--path", "nbd, qemu-nbd",
          "--path", "server", "--path", "program", "--cpu", 0, "-o", "out", cwd=lab.tmp)
    assert machine() == before
    result = json.loads((lab.tmp / "out/result.json").read_text())
    assert result["unit"] == "cpu_ns" and not result["interrupted"]
    assert result["settings"]["cpu"] == 0
    assert {p["name"] for p in result["paths"]} | {a["path"] for a in result["absent"]} >= {"raw", "kernel loop", "dm-linear", "nbd, qemu-nbd",
                                                                                            "server", "program", "io_uring BPF loop"}
    assert all(p["checked"] for p in result["paths"])
    cells = figures(result)
    server, program = (cells[path, "read", 4096, 1] for path in ("server", "program"))
    assert server["payers"]["server_system"] > 0 and server["wakeups_per_io"]["server"] > 0.5
    assert program["payers"]["server_user"] == program["payers"]["server_system"] == 0
    # the driver copies what is read once, the program's I/O is done on the reader's own pages
    assert 4096 <= server["copied_bytes_per_io"] < 4300 and program["copied_bytes_per_io"] < 100
    assert program["syscalls_per_io"]["submitter"] >= 1 and program["latency_ns"]["p50"] > 0
    report = (lab.tmp / "out/report.txt").read_text()
    assert "program" in report and "io_uring BPF loop" in report
    # and a result compared with itself has nothing worse
    bench("compare", "out/result.json", "out/result.json", cwd=lab.tmp)


@needs_tracing
def test_device_is_only_read_and_stays_as_it_is(lab):
    file = lab.tmp / "disk.img"
    data = os.urandom(1 << 20) * 32
    file.write_bytes(data)
    device = cli.ok("add", "-t", "loop", "-f", file)
    dev_id = str(device["dev_id"])
    try:
        cli.ok("attach", "--dev", dev_id, cli.OBJ_DIR / "loop.bpf.o")
        before = machine()
        bench("--dev", dev_id, "--job", "read-4k-qd1", "--rounds", 1, "-o", "out", cwd=lab.tmp)
        assert machine() == before
        assert file.read_bytes() == data
        now = cli.ok("list", "-n", dev_id)["devices"][0]
        assert now["state"] == "live" and now["bpf"]["attached"] and now["server"]["pid"] == device["server"]["pid"]
    finally:
        cli.ok("del", "-n", dev_id)
    result = json.loads((lab.tmp / "out/result.json").read_text())
    assert result["set"] == "device"
    assert {"kernel loop", "server", "program", f"/dev/ublkb{dev_id}"} <= {c["path"] for c in result["cells"]}
    assert {c["rw"] for c in result["cells"]} == {"read"}
    assert {"path": "raw", "why": "a file has no block device of its own"} in result["absent"]


@pytest.mark.full
@needs_tracing
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing_but_its_result(lab, sig):
    before = machine()
    run = subprocess.Popen([*BENCH, "--host", "--part", "paths", "--job", "read-4k-qd1", "--path", "raw", "--path", "kernel loop", "--path", "server",
                            "--rounds", "100", "-o", "out"], cwd=lab.tmp, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           start_new_session=True)
    seen = ""
    try:
        while "round 3 of" not in seen:
            line = run.stdout.readline()
            assert line, f"ended too early:\n{seen}"
            seen += line
        # ^C reaches all of a terminal's processes, a service manager's signal only the first
        if sig == signal.SIGINT:
            os.killpg(run.pid, sig)
        else:
            run.send_signal(sig)
        seen += run.communicate(timeout=120)[0]
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert run.returncode == 130, seen
    assert machine() == before
    result = json.loads((lab.tmp / "out/result.json").read_text())
    assert result["interrupted"] and {"raw", "server"} <= {c["path"] for c in result["cells"]}


def refused(*args, cwd, match, expect=2, lines=1):
    said = bench(*args, cwd=cwd, expect=expect).stderr.strip().splitlines()
    assert len(said) == lines, said
    for part in match if isinstance(match, tuple) else (match,):
        assert part in said[0], said[0]


def test_disk_that_somebody_has_is_not_touched(lab):
    file = lab.tmp / "disk.img"
    file.write_bytes(bytes(64 << 20))
    refused("--host", "--backing", file, cwd=lab.tmp, match=(str(file), "not a block device"))
    refused("--host", "--backing", "/dev/nonexistent", cwd=lab.tmp, match=("/dev/nonexistent", "No such file"))
    node = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True, check=True).stdout.strip()
    try:
        subprocess.run(["mkfs.ext4", "-q", node], check=True)
        before = file.read_bytes()
        where = lab.tmp / "mnt"
        where.mkdir()
        subprocess.run(["mount", "-o", "ro", node, where], check=True)
        try:
            refused("--host", "--backing", node, cwd=lab.tmp, match=(node, f"mounted at {where}"))
        finally:
            subprocess.run(["umount", where], check=True)
        with subprocess.Popen(["sleep", "60"], stdin=os.open(node, os.O_RDWR)) as holder:
            time.sleep(0.1)
            try:
                refused("--host", "--backing", node, cwd=lab.tmp, match=(node, f"sleep ({holder.pid})"))
            finally:
                holder.kill()
        assert file.read_bytes() == before
    finally:
        subprocess.run(["losetup", "-d", node], check=True)


def test_mere_openers_with_o_excl_are_told_from_what_is_above(lab):
    disk = lab.null_blk(64)
    name = os.path.basename(disk.path)
    fd = os.open(disk.path, os.O_RDONLY | os.O_EXCL)
    with subprocess.Popen(["sleep", "60"], stdin=fd) as holder:
        os.close(fd)
        try:
            refused("--host", "--backing", disk.path, cwd=lab.tmp, match=(disk.path, f"is claimed (O_EXCL) and open in sleep ({holder.pid})"))
            loaded = load(disk.path, "--rw", "write", expect=1)
            assert "an opener with O_EXCL has claimed it" in loaded.stderr
        finally:
            holder.kill()
    sectors = int(Path("/sys/class/block", name, "size").read_text())
    subprocess.run(["dmsetup", "create", "above", "--table", f"0 {sectors} linear {disk.path} 0"], check=True)
    try:
        above = next(Path("/sys/class/block", name, "holders").iterdir()).name
        refused("--host", "--backing", disk.path, cwd=lab.tmp, match=(disk.path, f"is held by {above}: it"))
    finally:
        subprocess.run(["dmsetup", "remove", "above"], check=True)
    load(disk.path, "--rw", "write")


def load(node, *options, expect=0):
    done = subprocess.run([str(LOAD), *options, node], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == expect, done
    return done


def written_sectors(node):
    return int(Path("/sys/class/block", os.path.basename(node), "stat").read_text().split()[6])


@pytest.mark.parametrize("rw", ["read", "write", "mixed"])
def test_generator_does_not_claim_what_it_measures(lab, rw):
    # What is claimed may have a file system on it: writes to files would go to a worker, and cost twice as much.
    disk = lab.null_blk(64)
    before = written_sectors(disk.path)
    with subprocess.Popen([str(LOAD), "--rw", rw, "--ios", str(1 << 40), disk.path]) as running:
        try:
            cli.wait_for("I/O of the generator", lambda: rw == "read" or written_sectors(disk.path) > before)
            cli.wait_for("the generator to open it", lambda: running.pid in openers(disk.path))
            os.close(os.open(disk.path, os.O_RDWR | os.O_EXCL))
            assert running.poll() is None
        finally:
            running.kill()


def openers(node):
    found = []
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == os.path.realpath(node):
                found.append(int(fd.parts[2]))
        except OSError:
            continue
    return found


@pytest.mark.full
@needs_tracing
def test_disk_that_nobody_has_is_measured(lab):
    disk = lab.null_blk(64)
    before = machine()
    bench("--host", "--backing", disk.path, "--part", "paths", "--job", "write-4k-qd1", "--rounds", 1, "--path", "raw", "--path", "kernel loop", "--path", "dm-linear",
          "--path", "program", "-o", "out", cwd=lab.tmp)
    assert machine() == before
    result = json.loads((lab.tmp / "out/result.json").read_text())
    assert {(c["backing"], c["path"]) for c in result["cells"]} == {("disk", p) for p in ("raw", "kernel loop", "program")}
    assert {"path": "dm-linear", "why": "would keep the others from the disk"} in result["absent"]


@pytest.mark.full
def test_used_wrongly(lab):
    refused("tape", cwd=lab.tmp, match="run, compare and report")
    refused("compare", "a.json", cwd=lab.tmp, match="2 results")
    refused("--backing", "/dev/null", cwd=lab.tmp, match="--host")
    refused("--host", "--part", "tape", cwd=lab.tmp, match=("tape", "paths"))
    refused("--host", "--job", "read-5k-qd1", cwd=lab.tmp, match=("read-5k-qd1", "read-4k-qd1"))
    refused("--host", "--cpu", "4096", cwd=lab.tmp, match=("4096", "this process may use 0"))
    refused("--cpu", "0", cwd=lab.tmp, match="--host or --dev")
    refused("--host", "--path", "tape", cwd=lab.tmp, match=("tape", "kernel loop"))
    # that would take /dev/ram0
    refused("--host", "--full", "--part", "ext4-read-random", cwd=lab.tmp, match=("ext4-read-random: there are null_blk-",))
    refused("--dev", "77", cwd=lab.tmp, match="77")
    refused("compare", "a.json", "b.json", cwd=lab.tmp, match=("a.json", "No such file"))
    (lab.tmp / "a.json").write_text("{")
    refused("report", "a.json", cwd=lab.tmp, match="a.json")


@pytest.mark.skipif(cli.TRACEPOINTS, reason="this kernel has tracepoints")
def test_kernel_that_cannot_tell_cpu_time(lab):
    before = machine()
    refused("--host", "-o", "out", cwd=lab.tmp, match=("tracepoints", "CONFIG_FTRACE"))
    assert machine() == before and not (lab.tmp / "out").exists()


@needs_tracing
def test_without_fio(lab, monkeypatch):
    where = lab.tmp / "bin"
    where.mkdir()
    for name in ("python3", "modprobe", "mount"):
        (where / name).symlink_to(shutil.which(name))
    before = machine()
    with monkeypatch.context() as without:
        without.setenv("PATH", str(where))
        refused("--host", "-o", "out", cwd=lab.tmp, match=("fio: No such file", "install"), lines=2)
    assert machine() == before


def test_without_root(lab):
    done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", *BENCH, "--host"], cwd="/tmp", capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "as root" in done.stderr
