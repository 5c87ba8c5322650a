# SPDX-License-Identifier: MIT
"""
The kernel's own selftests of ublk, out of its source package (scripts/kublk), with our command in kublk's place
(tests/selftests/kublk). Each script that passes with kublk on this kernel (tests/selftests/reference.json) passes with ours,
but for those in tests/selftests/not-applicable.txt, and those must not pass. What kublk fails, or skips, is run too, for the table.

The scripts run much in subshells whose failure nobody hears of, so what they print counts too. Without UBLK_BPF_SELFTESTS_RUN only
those run that must pass and are quick.
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
from blockio import MIB, Opened
from cli import wait_for

# about the command and its server more than about a kernel's driver
# Most of its cases are skipped.
pytestmark = [pytest.mark.one_face, pytest.mark.quick_tests(99)]

SUITE = Path(os.environ.get("UBLK_BPF_SELFTESTS", cli.TREE / "build/selftests"))
OURS = cli.TREE / "tests/selftests"
# Makes the reference instead: with kublk itself.
REFERENCE = os.environ.get("UBLK_BPF_SELFTESTS_REFERENCE") == "1"
ALL = REFERENCE or os.environ.get("UBLK_BPF_SELFTESTS_RUN") == "1"
# A minute each, in an emulator.
SLOW = re.compile(r"test_(recover|stress)_")
# One or more of each kind; the others do the same on other data paths, which test_paths.py has all of.
TELLING = re.compile(r"test_(generic_0[1-4]|(loop|stripe|null)_0[12])")
OUT = Path("/out/selftests")
SKIPPED = 4
SECONDS = 300
SLOW_SECONDS = 540
COMPLAINT = re.compile(r"\bfail|isn't|unexpected|\berror\b|No such|dead\(|command not found", re.I)
VERDICT = re.compile(r": \[(PASS|SKIP)\]$")

scripts = sorted(SUITE.glob("test_[!c]*.sh")) if SUITE.is_dir() else []


def reasons(name):
    """Script to reason; a line of the file is both, with a space between them."""
    rows = [line.split(maxsplit=1) for line in (OURS / name).read_text().splitlines()]
    return {row[0]: row[1] for row in rows if row and row[0] != "#"}


def not_applicable():
    return reasons("not-applicable.txt")


def kept():
    return json.loads((OURS / "reference.json").read_text())


def reference():
    return kept()["scripts"]


def version():
    return (SUITE / "version").read_text().strip()


def why_not():
    """Script to why it is left out of a run that is not of all."""
    left_out = {}
    for script in (s.name for s in scripts):
        expected = reference().get(script)
        if script in not_applicable():
            left_out[script] = not_applicable()[script]
        elif expected != "passed":
            left_out[script] = {None: "has not been tried", "failed": "fails", "skipped": "skips itself"}[expected] + " with kublk"
        elif SLOW.match(script):
            left_out[script] = "takes a minute: make selftests"
        elif not TELLING.match(script):
            left_out[script] = "is like the first ones of its kind: make selftests"
    return left_out


@pytest.fixture(scope="module")
def suite():
    """The scripts beside the program that they call kublk."""
    directory = Path("/root/selftests")
    shutil.copytree(SUITE, directory, dirs_exist_ok=True)
    (directory / "bin").mkdir(exist_ok=True)
    for program in ("fio", "udevadm"):
        shutil.copy(OURS / program, directory / "bin" / program)
    if not REFERENCE:
        shutil.copy(OURS / "kublk", directory / "kublk")
    OUT.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    yield directory, outcomes
    result = {"kernel": os.uname().release, "source": version()}
    if REFERENCE:  # of the same kernel and scripts a run of some adds to what there is
        before = kept()
        if result == {key: before[key] for key in result}:
            outcomes = dict(sorted({**before["scripts"], **outcomes}.items()))
    result["scripts"] = outcomes
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
    cli.run("del", "-a", "--force")
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
        "UBLK_BPF_OBJ_DIR": str(cli.OBJ_DIR),
        "UBLK_BPF_LEFT_OUT": str(left_out),
    }
    limit = SLOW_SECONDS if SLOW.match(script) else SECONDS
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
            status = process.wait(cli.seconds(limit))
        except subprocess.TimeoutExpired:
            status = "no end"
            out.write(f"no end after {limit} s\n")
    text = log.read_text()
    clean_up(tmp, process.pid)
    complaints = [l for l in text.splitlines() if COMPLAINT.search(l) and not VERDICT.search(l)]
    if status == SKIPPED:
        return "skipped", text, set()
    options = set(left_out.read_text().split())
    return ("passed" if status == 0 and not complaints else "failed"), f"status {status}\n{text}", options


with_scripts = pytest.mark.skipif(not scripts, reason="the scripts are where our module is: make test FACE=module, make selftests")


@with_scripts
@pytest.mark.every
@pytest.mark.parametrize("script", [s.name for s in scripts])
def test_script(script, suite, record_property, capfd):
    directory, outcomes = suite
    if not ALL and script in why_not():
        pytest.skip(why_not()[script])
    outcome, text, left_out = run(script, directory)
    outcomes[script] = outcome if REFERENCE else {"outcome": outcome, "left_out": sorted(left_out)}
    record_property("outcome", outcome)
    record_property("left_out", " ".join(sorted(left_out)))
    with capfd.disabled():
        print(f" {outcome}", *sorted(left_out), f"\n{text}" if outcome == "failed" and script not in not_applicable() else "", end=" ", flush=True)
    if REFERENCE:
        return
    reason = not_applicable().get(script)
    if reason:
        assert outcome != "passed", f"{script} passes: take it out of not-applicable.txt ({reason})"
        pytest.skip(f"does not apply: {reason}")
    expected = reference().get(script)
    if expected != "passed" and outcome != "passed":
        pytest.skip(f"{outcome}, with kublk {expected}")
    if outcome != "passed" and not ALL and version() != kept()["source"]:
        pytest.skip(f"{outcome}; the scripts are of Linux {version()}, the reference is of {kept()['source']}: make selftests-reference")
    assert outcome == "passed", f"{script} {outcome}, with kublk it passes\n{text}"


def test_a_stripe_has_the_chunks_of_kublk(lab):
    """Otherwise what the scripts write all lands in one file, and passes."""
    files = [lab.file(lab.tmp, 4 * MIB) for _ in range(2)]
    environment = {**os.environ, "UBLK_BPF": cli.COMMAND, "UBLK_BPF_OBJ_DIR": str(cli.OBJ_DIR)}
    subprocess.run([OURS / "kublk", "add", "-t", "stripe", *files], env=environment, check=True, capture_output=True)
    lab.cleanup(cli.ok, "del", "-a")
    data = os.urandom(8 * MIB)
    with Opened(cli.devices()[0]["block"]) as disk:
        for at in range(0, len(data), MIB):
            disk.write(at, data[at : at + MIB])
        disk.flush()
        chunks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
        for i, file in enumerate(files):
            assert Path(file).read_bytes() == b"".join(chunks[i::2]), f"file {i} does not hold every second chunk"
        disk.discard(65536, 6 * MIB)
        assert disk.read(0, 8 * MIB) == data[:65536] + bytes(6 * MIB) + data[65536 + 6 * MIB :]


@with_scripts
@pytest.mark.skipif(REFERENCE or not ALL, reason="make selftests sees to it")
def test_the_lists_are_of_the_scripts_that_there_are():
    names = {s.name for s in scripts}
    assert set(not_applicable()) <= names
    assert set(reference()) == names, "make the reference again: make selftests-reference"
    fails = {script for script, outcome in reference().items() if outcome != "passed"}
    assert set(reasons("kublk-does-not-pass.txt")) == fails, "each of these has its reason in kublk-does-not-pass.txt, no other"
