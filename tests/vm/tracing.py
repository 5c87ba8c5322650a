# SPDX-License-Identifier: MIT
"""Tracing programs (tests/programs/slow_*.bpf.c), which hold tasks up in chosen places of the kernel."""

import contextlib
import os
from pathlib import Path

import cli
import pytest
from bpfmaps import bpftool, variables
from lab import sh

BPFFS = Path("/sys/fs/bpf")

needs_tracing = pytest.mark.skipif(not cli.TRACEPOINTS, reason="this kernel cannot trace by BPF programs")


@contextlib.contextmanager
def held_up(name):
    """While this program is loaded; yields what says how often it has held a task up."""
    if not os.path.ismount(BPFFS):
        sh("mount", "-t", "bpf", "bpf", BPFFS)
    where = BPFFS / name
    sh("bpftool", "prog", "loadall", cli.program(name), where, "autoattach")
    try:
        prog = max(p["id"] for p in bpftool("prog", "show") if p.get("name") == name)
        yield lambda: variables(prog)["times"]
    finally:
        for pin in where.iterdir():
            pin.unlink()
        where.rmdir()
