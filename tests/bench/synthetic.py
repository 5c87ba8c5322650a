# SPDX-License-Identifier: MIT
"""
A result as `ublk-bpf bench` writes it, of figures made from a simple model, for the tests of what works on results. No figure of it is
a measurement. Run as a program it prints one.
"""

import json
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import limits  # noqa: E402

KIB = 1 << 10
# fixed cost of an I/O at QD1 and in depth, per byte, what of the difference to raw is the server's, wake-ups at QD1
MODEL = {
    "raw": (6400, 5000, 0.15, 0, 0),
    "kernel loop": (21250, 8800, 0.17, 0, 0),
    "dm-linear": (7300, 5800, 0.15, 0, 0),
    "nbd, qemu-nbd": (61000, 30500, 0.6, 0.6, 3),
    "kublk, copy": (28100, 12300, 0.33, 0.5, 1),
    "kublk, zero-copy": (28300, 12500, 0.16, 0.55, 1),
    "kublk, auto-zero-copy": (26500, 10700, 0.16, 0.5, 1),
    "server": (27400, 11700, 0.33, 0.5, 1),
    "server, user-copy": (28400, 12700, 0.33, 0.55, 1),
    "server, need-get-data": (27900, 12200, 0.33, 0.5, 1),
    "server, zero-copy": (27300, 11800, 0.16, 0.55, 1),
    "server, auto-zero-copy": (26100, 10300, 0.16, 0.5, 1),
    "server, auto-zero-copy, batch": (26900, 9800, 0.16, 0.5, 1),
    "program": (9270, 7200, 0.155, 0, 0),
    "program, --no-inline": (21000, 8000, 0.16, 0, 0),
    "program, passing": (28000, 12000, 0.33, 0.5, 1),
}
NULL_MODEL = {
    f"{who}, {path}": figures
    for who in ("kublk", "server")
    for path, figures in {"copy": (22000, 7200, 0.165, 0.5, 1), "zero-copy": (24700, 8900, 0, 0.5, 1), "auto-zero-copy": (22900, 7400, 0, 0.5, 1)}.items()
}
JOBS = (
    [("read", bs, 1, "random", 1) for bs in (512, 4 * KIB, 64 * KIB, 512 * KIB, 2048 * KIB)]
    + [("read", 4 * KIB, qd, "random", 1) for qd in (8, 32, 128)]
    + [("read", 64 * KIB, 32, "random", 1)]
    + [("write", bs, qd, "random", 1) for bs in (4 * KIB, 64 * KIB) for qd in (1, 32)]
    + [("write", 512 * KIB, 16, "random", 1), ("write", 2048 * KIB, 16, "random", 1)]
    + [("read", 4 * KIB, 32, "sequential", 1), ("mixed", 4 * KIB, 32, "random", 1), ("read", 4 * KIB, 32, "random", 16)]
)
NULL_JOBS = [("read", bs, 32, "random", 1) for bs in (4 * KIB, 64 * KIB, 512 * KIB)]


def cell(backing, path, model, job):
    one, deep, per_byte, servers, wakeups = model
    rw, bs, qd, pattern, devices = job
    share = 1 / qd
    cost = round(one * share + deep * (1 - share) + per_byte * bs, 1)
    server = servers * cost
    threads = 0.4 * cost if path in ("kernel loop", "program, --no-inline") else 0
    rest = cost - server - threads
    rounds = [cost, round(cost * 0.999, 1), round(cost * 1.001, 1)]
    return {
        "backing": backing, "path": path, "rw": rw, "pattern": pattern, "bs": bs, "qd": qd, "queues": 1, "devices": devices, "ios": 1600,
        "cost_per_io": cost, "insns_per_io": cost, "spread": 0.002, "rounds": rounds, "enters_per_io": share, "switches_per_io": share,
        "server_wakeups": None, "server_wakeups_per_io": None,
        "payers": {"submitter_user": 120.0, "submitter_system": rest - 320, "server_user": server * 0.2, "server_system": server * 0.8,
                   "kernel_threads": threads, "interrupts": 200.0, "other": 0},
        "traced_cost_per_io": cost * 1.05,
        "syscalls_per_io": {"submitter": share, "server": wakeups * share}, "context_switches_per_io": 2 * wakeups * share,
        "wakeups_per_io": {"submitter": share, "server": wakeups * share, "kernel_threads": 1.0 if threads else 0},
        "copied_bytes_per_io": bs if per_byte > 0.3 else 0, "iops": round(1e9 / cost), "bytes_per_s": round(1e9 / cost * bs),
        "latency_ns": {"p50": cost * qd, "p99": cost * qd * 1.2, "p99_9": cost * qd * 1.9}, "events_per_io": None,
    }


def result():
    cells = [cell("null_blk", path, model, job) for job in JOBS for path, model in MODEL.items()]
    cells += [cell("null target", path, model, job) for job in NULL_JOBS for path, model in NULL_MODEL.items()]
    paths = [{"name": p, "backing": "null_blk", "what": f"a model of {p}", "checked": True,
              "memory": {"server_rss_bytes": 5 << 20 if m[4] else None}} for p, m in MODEL.items()]
    return {
        "version": 1, "set": "quick", "unit": "instructions", "interrupted": False, "kernel": "7.2.12-synthetic", "face": "struct_ops",
        "ublk_bpf": "ublk-bpf 0.1.0", "program": {"name": "loop", "sha256": "00" * 32}, "generator": {"name": "bench/load.c", "sha256": "11" * 32},
        "host": {"cpu": "a processor", "qemu": "QEMU emulator version 7.2", "commit": "0123456789ab", "when": "2026-11-21T00:00:00Z"}, "notes": [],
        "settings": {"rounds": 0, "settle_s": 20, "span_bytes": 16 << 20, "null_blk": {"irqmode": 0}, "file_mib": 32,
                     "ublk": {"nr_hw_queues": 1, "queue_depth": 128}, "icount": "-icount shift=0"},
        "backings": {"null_blk": "completes inline, keeps nothing", "null target": "the server does no I/O"},
        "paths": paths, "absent": [{"path": "io_uring BPF loop", "why": "nobody keeps one"}],
        "generator_part": [{"rw": "read", "bs": 4096, "qd": 1, "insns_per_io": 114.0}], "cells": cells,
        "checks": [{"name": "program / kernel loop", "where": "null_blk, read 4k QD1", "value": 0.436, "limit": 0.5, "unit": "", "ok": True, "note": ""}],
    }


# what bench/run measures, at QD1 and in depth, on null_blk
RUN_MODEL = {
    "raw": (6400, 5000), "kernel loop": (21250, 8800), "server": (27400, 11700), "server, throttled": (27760, 12060),
    "server, --no-bpf": (27750, 12060), "program": (7000, 5600),
    "program, completion": (7090, 5680), "dm-linear": (7300, 5800), "dm-stripe": (7400, 5900), "program, stripe": (7000, 5700),
}


def run_cost(path, bs, qd):
    return RUN_MODEL[path][qd > 1] + (0.33 if path.startswith("server") else 0.15) * bs


def run():
    """A result of bench/run, judged."""
    cells = [{"backing": "null_blk", "path": path, "rw": rw, "bs": bs, "qd": qd, "engine": engine, "ios": 1600, "spread": 0.002,
              "insns_per_io": run_cost(path, bs, qd), "rounds": [run_cost(path, bs, qd)] * 3, "enters_per_io": 1, "switches_per_io": 0,
              "server_wakeups": 0 if path.startswith("program") else None, "server_wakeups_per_io": None}
             for engine in ("io_uring", "libaio") for rw in ("read", "write") for bs in (4096, 65536) for qd in (1, 32)
             for path in RUN_MODEL]
    made = result()
    kept = {name: made[name] for name in ("version", "kernel", "face", "ublk_bpf", "program", "generator", "host", "notes", "settings", "generator_part")}
    return {**kept, "backings": {"null_blk": "completes inline, keeps nothing"}, "cells": cells, "checks": limits.judge_cells(cells)}


if __name__ == "__main__":
    print(json.dumps(result(), indent=1))
