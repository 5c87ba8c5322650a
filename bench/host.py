# SPDX-License-Identifier: MIT
"""What a round costs, by the means of the machine: counted instructions, or CPU time and perf's events; fio's percentiles."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import lab
import measure
import payers

EVENTS = ("cycles", "instructions", "cache-misses", "dTLB-load-misses")
PERCENTILES = {"p50": "50.000000", "p99": "99.000000", "p99_9": "99.900000"}
LATENCY_IOS = 400


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def first_line(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


# Of the processor that submits, after each round; a virtual machine is not told.
khz_seen = []


def look_at_frequency(cpu):
    found = first_line(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")
    if found:
        khz_seen.append(int(found))


def settings(cpu=None):
    """What of the machine figures depend on; cpu is the processor that submits, if that is always the same."""
    at = "/sys/devices/system/cpu"
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu,
        "governor": first_line(f"{at}/cpu{cpu or 0}/cpufreq/scaling_governor"),
        "max_khz": first_line(f"{at}/cpu{cpu or 0}/cpufreq/scaling_max_freq"),
        "boost": first_line(f"{at}/cpufreq/boost"),
        "least_khz_seen": min(khz_seen, default=None),
        "most_khz_seen": max(khz_seen, default=None),
    }


def percentiles(node, job):
    """Completion latency that fio saw, ns."""
    rw = {"read": "randread", "write": "randwrite", "mixed": "randrw"}[job.rw]
    argv = ["fio", "--name=latency", f"--filename={node}", "--ioengine=io_uring", "--direct=1", f"--rw={rw}", "--rwmixread=70",
            f"--bs={job.bs}", f"--iodepth={job.qd}", f"--number_ios={max(LATENCY_IOS, 4 * job.qd)}", f"--size={measure.SPAN_BYTES}",
            "--randrepeat=1", "--norandommap", "--percentile_list=50:99:99.9", "--output-format=json", "--allow_mounted_write=0", "--thread"]
    argv = [*measure.ON_PROCESSOR, *argv]
    done = json.loads(lab.sh(*argv))["jobs"][0]
    seen = done["write" if job.rw == "write" else "read"]["clat_ns"]["percentile"]
    return {name: seen[key] for name, key in PERCENTILES.items()}


def perf_events(text, ios):
    """perf stat -x, says: value,unit,event,... ; what the processor does not have is not a number. Of processors of two kinds, cpu_core/cycles/ and cpu_atom/cycles/."""
    found = {}
    for line in text.splitlines():
        columns = line.split(",")
        name = columns[2].removesuffix("/").split("/")[-1].split(":")[0] if len(columns) > 2 else ""
        if name in EVENTS and columns[0].replace(".", "").isdigit():
            found[name] = found.get(name, 0) + float(columns[0])
    return {name: round(found[name] / ios, 2) if name in found else None for name in EVENTS} if found else None


class Counter:
    """
    Counts a round in the unit of the result. Where a processor may wait, for a disk or because there are more of them, it is what those who
    pay were seen to spend; else what the generator's own clock says, which nothing is looked at for.
    """

    def __init__(self, unit, waits, cpu=None):
        self.cpu = cpu
        self.payers = payers.Payers() if unit == "cpu_ns" or waits else None

    def __enter__(self):
        if self.payers:
            self.payers.__enter__()
        return self

    def __exit__(self, *what):
        if self.payers:
            self.payers.__exit__(*what)

    def one_round(self, cell):
        if not self.payers:
            measure.one_round(cell)
            cell.wall = cell.insns
            return
        self.payers.reset()
        ios = measure.one_round(cell)["ios"]
        found = payers.shares(self.payers.read(), ios)
        cell.wall = cell.rounds.pop()
        cell.rounds.append(sum(value for name, value in found["payers"].items() if name != "other"))
        cell.more.update(found)
        if self.cpu is not None:
            look_at_frequency(self.cpu)

    @staticmethod
    def events(cells):
        """perf's, in a run of their own, of all processors."""
        if not shutil.which("perf"):
            return
        for cell in cells:
            argv = ["perf", "stat", "-a", "-x,", "-e", ",".join(EVENTS), "--", *measure.load_argv(cell.path.nodes, cell.job, cell.path.first_bytes)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if not done.returncode:
                cell.more["events_per_io"] = perf_events(done.stderr, cell.job.all_ios)
