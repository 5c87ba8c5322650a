# SPDX-License-Identifier: MIT
"""
The kernel's own selftests of ublk, out of its source package (scripts/kublk), with our command in kublk's place
(tests/selftests/kublk). Each script that passes with kublk on this kernel (tests/selftests/reference.json) passes with ours,
but for those in tests/selftests/not-applicable.txt, and those must not pass.

The scripts run much in subshells whose failure nobody hears of, so what they print counts too.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import cli
import pytest
from cli import wait_for

SUITE = Path(os.environ.get("UBLK_BPF_SELFTESTS", cli.TREE / "build/selftests"))
OURS = cli.TREE / "tests/selftests"
# Makes the reference instead: with kublk itself.
REFERENCE = os.environ.get("UBLK_BPF_SELFTESTS_REFERENCE") == "1"
OUT = Path("/out/selftests")
SKIPPED = 4
SECONDS = 300
COMPLAINT = re.compile(r"\bfail|isn't|unexpected|\berror\b|No such|dead\(|command not found", re.I)
# what the guest has not, and the scripts do not need there
EXPECTED = re.compile(r"udevadm: command not found|: \[(PASS|SKIP)\]$")

scripts = sorted(SUITE.glob("test_[!c]*.sh")) if SUITE.is_dir() else []


def not_applicable():
    """Script to reason; a line of the file is both, with a space between them."""
    rows = [line.split(maxsplit=1) for line in (OURS / "not-applicable.txt").read_text().splitlines()]
    return {row[0]: row[1] for row in rows if row and row[0] != "#"}


def reference():
    path = OURS / "reference.json"
    return json.loads(path.read_text())["scripts"] if path.exists() else {}


@pytest.fixture(scope="module")
def suite():
    """The scripts beside the program that they call kublk."""
    directory = Path("/root/selftests")
    shutil.copytree(SUITE, directory, dirs_exist_ok=True)
    (directory / "bin").mkdir(exist_ok=True)
    shutil.copy(OURS / "fio", directory / "bin/fio")
    if not REFERENCE:
        shutil.copy(OURS / "kublk", directory / "kublk")
    OUT.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    yield directory, outcomes
    result = {"kernel": os.uname().release, "source": (SUITE / "version").read_text().strip(), "scripts": outcomes}
    (OUT / ("reference.json" if REFERENCE else "ours.json")).write_text(json.dumps(result, indent=1) + "\n")


def clean_up(tmp, group):
    """Whatever a script that failed has left."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for line in Path("/proc/mounts").read_text().splitlines():
        if str(tmp) in line.split()[1]:
            subprocess.run(["umount", line.split()[1]], check=False)
    cli.run("del", "-a")
    # dd makes a file of what has just ceased to be a device
    for node in Path("/dev").glob("ublkb*"):
        if node.is_file():
            node.unlink()
    shutil.rmtree(tmp, ignore_errors=True)
    wait_for("the devices to be gone", lambda: not cli.devices())


def run(script, directory):
    """passed, skipped or failed; what it printed; the options that were left out."""
    tmp = Path("/root/selftests.tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    left_out = tmp.with_suffix(".left-out")
    left_out.write_text("")
    environment = {
        **os.environ,
        "PATH": f"{directory}/bin:{os.environ['PATH']}",
        "TMPDIR": str(tmp),
        "UBLK_BPF": cli.COMMAND,
        "UBLK_BPF_TEST_OBJ_DIR": str(cli.TEST_OBJ_DIR),
        "UBLK_BPF_LEFT_OUT": str(left_out),
    }
    log = OUT / f"{script}.log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            ["bash", f"./{script}"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(cli.seconds(SECONDS))
        except subprocess.TimeoutExpired:
            status = "no end"
            out.write(f"no end after {SECONDS} s\n")
    text = log.read_text()
    clean_up(tmp, process.pid)
    complaints = [l for l in text.splitlines() if COMPLAINT.search(l) and not EXPECTED.search(l)]
    if status == SKIPPED:
        return "skipped", text, set()
    options = set(left_out.read_text().split())
    return ("passed" if status == 0 and not complaints else "failed"), f"status {status}\n{text}", options


@pytest.mark.skipif(not scripts, reason="make selftests runs them")
@pytest.mark.parametrize("script", [s.name for s in scripts])
def test_script(script, suite, record_property, capfd):
    directory, outcomes = suite
    expected = reference().get(script)
    reason = not_applicable().get(script)
    if not REFERENCE and expected != "passed":
        outcome = {None: "has not been tried with kublk", "failed": "fails with kublk", "skipped": "skips itself with kublk"}[expected]
        pytest.skip(outcome + (f", and {reason}" if reason else ""))
    outcome, text, left_out = run(script, directory)
    outcomes[script] = outcome if REFERENCE else {"outcome": outcome, "left_out": sorted(left_out)}
    record_property("outcome", outcome)
    record_property("left_out", " ".join(sorted(left_out)))
    with capfd.disabled():
        print(f" {outcome}", *sorted(left_out), end=" ", flush=True)
    if REFERENCE:
        return
    if reason:
        assert outcome != "passed", f"{script} passes: take it out of not-applicable.txt ({reason})"
        pytest.skip(f"does not apply: {reason}")
    assert outcome == "passed", f"{script} {outcome}, with kublk it passes\n{text}"


@pytest.mark.skipif(not scripts, reason="make selftests runs them")
def test_the_lists_name_scripts_that_there_are():
    names = {s.name for s in scripts}
    assert set(not_applicable()) <= names
    assert set(reference()) <= names, "make the reference again: make selftests-reference"
