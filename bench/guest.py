# SPDX-License-Identifier: MIT
"""
Runs in the virtual machine: sets up the paths, measures, judges, and leaves result.json and report.txt in /out. Started by bench/run,
which says in BENCH_* what only the host knows. Ends with 1 if a limit is broken, with 2 if there is no result.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import lab
import mapped
import measure
import report
import way
from limits import judge_cells, judge_device, unproved
from paths import FILE_WAYS, POLICIES

RESULT_VERSION = 1
NULL_BLK_MIB = 256
FILE_MIB = 32
SETTLE_SECONDS = 20
IDLE_SECONDS = 10


def progress(what):
    print(f"    {what}", flush=True)


def attached(file, *options, program="loop"):
    device = lab.Ublk(file)
    device.attach(lab.object_of(program), *options)
    return device


def null_blk_paths(small):
    node = lab.null_blk("bench", NULL_BLK_MIB, 0)

    def path(name, device, **more):
        return measure.Path("null_blk", name, device.node, device, **more)

    paths = [
        measure.Path("null_blk", "raw", node),
        measure.Path("null_blk", "kernel loop", lab.kernel_loop(node)),
        path("server", lab.Ublk(node)),
        path("program", attached(node)),
    ]
    if not small:
        paths.append(path("program, --no-inline", attached(node, "--no-inline")))
        paths.append(path("server, throttled", lab.Ublk(node).throttle_writeback()))
        paths.append(path("server, --no-bpf", lab.Ublk(node, "--no-bpf").throttle_writeback()))
        paths.append(path("program, completion", attached(node, program="completed")))
    return paths


def made(ways, backing_name, backing, absent):
    """These ways' paths; what this kernel has not is added to absent."""
    found, stack = [], ExitStack()
    for w in ways:
        try:
            m = w.make(backing(w), stack, way.Shape())
        except way.Absent as e:
            progress(f"{w.name} is absent: {e}")
            absent.append({"path": w.name, "why": str(e)})
            continue
        found.append(measure.Path(backing_name, w.name, m.node, m.device, first_bytes=m.first_bytes, reads_only=m.reads_only))
    stack.pop_all()  # they go with the machine
    return found


def mapped_paths(absent):
    """Device mapper's, md's and programs that do the same, over disks of their own."""
    def disks(w):
        return [lab.null_blk(f"{w.slug}{n}", NULL_BLK_MIB, int(kept)) for n, kept in enumerate(w.disks)]

    return made(mapped.WAYS + POLICIES, "null_blk", disks, absent)


def file_paths(absent):
    """A file for each: two that write to one file would not be what anybody does."""
    disk = lab.FileDisk(16 * FILE_MIB)

    def path(name, make, *options):
        device = make(disk.file(name.replace(" ", ""), FILE_MIB), *options)
        return measure.Path("file on ext4", name, device.node, device)

    paths = [measure.Path("file on ext4", "kernel loop", lab.kernel_loop(disk.file("loop", FILE_MIB)))]
    paths += [path("server", lab.Ublk), path("program", attached), path("program, --no-inline", attached, "--no-inline")]
    paths += made(FILE_WAYS, "file on ext4", lambda w: disk.file(w.slug, FILE_MIB, w.kept_mib), absent)
    lab.sh("sync")
    return paths


PEER_BACKINGS = {"null target": "the server does no I/O", "loop target": "the server does direct I/O on null_blk completing inline"}


def peer_paths():
    """Our server and kublk, on each data path that both have."""
    node = lab.null_blk("peers", NULL_BLK_MIB, 0)
    paths = []
    for backing, file in zip(PEER_BACKINGS, (None, node)):
        for data_path in lab.Kublk.FLAGS:
            paths.append(measure.Path(backing, f"kublk, {data_path}", lab.Kublk(file, data_path).node))
            # The same for the same: kublk leaves the pages of a null device's reader as they are.
            same = [] if file else ["--no-fill"]
            device = lab.Ublk(file, *same, data_path=data_path)
            paths.append(measure.Path(backing, f"server, {data_path}", device.node, device))
            if same and data_path != "copy":
                device = lab.Ublk(file, data_path=data_path)
                paths.append(measure.Path(backing, f"server, {data_path}, zeroes", device.node, device))
    return paths


def attach_times(path):
    """Milliseconds of the kernel's command, alone and under I/O; the verifier's and libbpf's work is not in it."""
    device = path.device
    job = measure.Job("read", 4096, 8, 1 << 40)

    def times(*options, fresh):
        found = []
        for _ in range(3):
            if fresh:
                device.detach()
            found.append(round(device.attach(lab.object_of("loop"), *options)["attach_ms"], 3))
        return found

    idle = times(fresh=True)
    with subprocess.Popen(measure.load_argv([device.node], job), stdout=subprocess.DEVNULL) as load:
        time.sleep(0.2)
        try:
            busy, replace = times(fresh=True), times("--replace", fresh=False)
            if load.poll() is not None:
                raise lab.Failed(f"the I/O under which programs were attached ended: status {load.returncode}")
        finally:
            load.kill()
    return {"idle device": idle, "under I/O": busy, "replacing under I/O": replace}


def idle_server(device):
    before = device.info()["server"]
    time.sleep(IDLE_SECONDS)
    after = device.info()["server"]
    return {
        "seconds": IDLE_SECONDS,
        "server_cpu_ns": after["cpu_ns"] - before["cpu_ns"],
        "server_wakeups": after["wakeups"] - before["wakeups"],
    }


def versions():
    probe = lab.probe()
    data = lab.object_of("loop").read_bytes()
    return {
        "kernel": platform.release(),
        "face": probe["face"],
        "ublk_bpf": lab.sh(lab.UBLK_BPF, "--version"),
        "program": {"name": "loop", "sha256": hashlib.sha256(data).hexdigest()},
        "generator": {"name": "bench/load.c", "sha256": os.environ.get("BENCH_LOAD_SHA256", "")},
        "host": {
            "cpu": os.environ.get("BENCH_CPU", ""),
            "qemu": os.environ.get("BENCH_QEMU", ""),
            "commit": os.environ.get("BENCH_COMMIT", ""),
            "when": os.environ.get("BENCH_WHEN", ""),
        },
    }


def arguments():
    p = argparse.ArgumentParser(prog="bench")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--small", action="store_true", help="reads of 4k on null_blk only, four paths: what the demo shows")
    p.add_argument("--peers", action="store_true", help="our server and kublk only")
    return p.parse_args()


def set_up(args):
    """What is measured: pairs of paths and jobs; and what the backings are."""
    backings, sets, absent = {}, [], []
    if not args.peers:
        paths = null_blk_paths(args.small)
        backings["null_blk"] = "completes inline, keeps nothing"
        if args.small:
            sets.append((paths, [j for j in measure.JOBS if j.rw == "read" and j.bs == 4096]))
        else:
            stacked = mapped_paths(absent)
            backings["file on ext4"] = lab.FileDisk.WHAT
            sets.append((paths + stacked + file_paths(absent), measure.JOBS))
            sets.append(([p for p in paths if p.name in ("raw", "program")] + stacked, measure.AIO_JOBS))
    if not args.small:
        backings.update(PEER_BACKINGS)
        sets.append((peer_paths(), measure.PEER_JOBS))
    return backings, sets, absent


def run(args):
    progress("sets up the paths")
    backings, sets, absent = set_up(args)
    progress(f"lets the machine settle, {SETTLE_SECONDS} s of its time")
    time.sleep(SETTLE_SECONDS)
    result = {
        "version": RESULT_VERSION,
        **versions(),
        "settings": {
            "rounds": args.rounds,
            "settle_s": SETTLE_SECONDS,
            "span_bytes": measure.SPAN_BYTES,
            "null_blk": {**lab.NULL_BLK, "size_mib": NULL_BLK_MIB},
            "file_mib": FILE_MIB,
            "ublk": {"nr_hw_queues": 1, "queue_depth": 128},
            "icount": os.environ.get("BENCH_ICOUNT", ""),
        },
        "backings": backings,
        "absent": absent,
    }
    cells = [c.to_json() for paths, jobs in sets for c in measure.measure(paths, jobs, args.rounds, progress)]
    paths, jobs = sets[0]
    result["generator_part"] = [p for _, js in sets[:2] for p in measure.generator_part(paths[0].node, js)]
    result["cells"] = cells
    result["checks"] = judge_cells(cells)
    if args.peers:
        return result
    if not args.small:
        result["unproved"] = unproved(cells)
    program = next(p for p in paths if p.name == "program")
    result["device"] = device = {
        "pdu_bytes": program.device.info()["bpf"]["pdu_bytes"],
        "counters": program.device.info()["bpf"]["counters"],
    }
    if not args.small:
        progress("attaches and replaces")
        device["attach_ms"] = attach_times(program)
        progress("lets it idle")
        served = next(p for p in paths if p.name == "server")
        device["idle"] = {"with a program": idle_server(program.device), "having served": idle_server(served.device)}
        result["checks"] += judge_device(device)
    return result


def leave(measure_all, as_text):
    """
    Writes what was measured, and as text, where bench/run looks for it. Returns the exit status: 0, 1 a limit is broken or was not
    measured, 2 no result.
    """
    try:
        result = measure_all()
    except lab.Failed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 2
    Path("/out/result.json").write_text(json.dumps(result, indent=1) + "\n")
    Path("/out/report.txt").write_text(as_text(result) + "\n")
    return 0 if all(c["ok"] for c in result["checks"]) and not result.get("unproved") else 1


def main():
    args = arguments()
    return leave(lambda: run(args), report.small if args.small else report.text)


if __name__ == "__main__":
    sys.exit(main())
