# SPDX-License-Identifier: MIT
"""What of ours is there: devices, servers and other processes, state files, maps."""

import json
import os
import subprocess
from pathlib import Path

import cli
import pytest
from cli import wait_for

STATE = Path("/run/ublk-bpf")
HELPER = "ublk-bpf-ctl"


def processes():
    """Processes of the command's that live."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.path.samefile(entry / "exe", cli.COMMAND) and "\nState:\tZ" not in (entry / "status").read_text():
                found.add(int(entry.name))
        except OSError:  # it has ended
            pass
    return found


def servers():
    """Those of them that are no helper that does control commands for another one."""
    def name(pid):
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return HELPER
    return {pid for pid in processes() if name(pid) != HELPER}


def state_files():
    """Whatever is in there, but for the locks: a temporary file is a leftover too."""
    return {p.name for p in STATE.iterdir() if p.name not in ("lock", "hold")} if STATE.is_dir() else set()


def nodes():
    return {p.name for p in Path("/sys/class/ublk-char").iterdir()} if Path("/sys/class/ublk-char").is_dir() else set()


def maps():
    """Of BPF, those that servers and programs share."""
    shown = subprocess.run(["bpftool", "-j", "map", "show"], capture_output=True, text=True, check=True).stdout
    return {m["id"] for m in json.loads(shown) if m.get("name", "").startswith(("ublk_clone", "ublk_disk", "ublk_track"))}


class Census:
    """What there is now."""

    def __init__(self):
        self.processes, self.state_files, self.nodes, self.maps = processes(), state_files(), nodes(), maps()

    def new(self):
        kinds = ("devices", nodes() - self.nodes), ("state files", state_files() - self.state_files), \
            ("processes", processes() - self.processes), ("maps", maps() - self.maps)
        return {kind: sorted(new) for kind, new in kinds if new}

    def nothing_new(self):
        """A process may take a moment to be gone; what stays is a failure."""
        try:
            wait_for("what a test has made to be gone", lambda: not self.new(), 10)
        except AssertionError as e:
            raise AssertionError(f"left behind: {self.new()}") from e


@pytest.fixture(autouse=True)
def nothing_is_left():
    """For the modules that import it; before what a test makes, and after that is undone."""
    before = Census()
    yield
    before.nothing_new()
