# SPDX-License-Identifier: MIT
"""
The tests of blktests' block group that are about any block device, on one that a program serves: with bios shown to it, and with
requests alone. `make blktests` has the suite (https://github.com/linux-blktests/blktests); without it there is nothing to run.
"""

import os
import re
from pathlib import Path

import cli
import pytest
from lab import sh

pytestmark = [pytest.mark.full]

SUITE = Path(os.environ.get("UBLK_BPF_BLKTESTS", cli.TREE / "build/blktests"))
# Of each test that takes as long as it is told to.
SECONDS = 20
# What the suite itself does not run on such a device, and why.
NOT_RUN = {
    "block/011": "is about PCI",
    "block/019": "is about PCI",
    "block/036": "needs fail_make_request, which Debian's kernels have not",
}
# null_blk frees nothing; a file does
DISCARDS = ("block/003",)
OUTCOME = re.compile(r"\[(passed|failed|not run)\]")


def about_a_device(path):
    return "test_device()" in path.read_text()


tests = [f"block/{p.name}" for p in sorted((SUITE / "tests/block").glob("[0-9][0-9][0-9]")) if about_a_device(p)]


@pytest.mark.skipif(not tests, reason="needs make blktests")
@pytest.mark.parametrize("requests", [False, True], ids=["bios", "requests"])
@pytest.mark.parametrize("name", tests or ["none"])
def test_blktests_pass_on_a_device_with_a_program(lab, name, requests):
    device = lab.add("loop", lab.ext4_file(512) if name in DISCARDS else lab.null_blk(1024).path, q=2)
    device.attach("loop", requests=requests)
    before = device.counters()["redirected"]
    if not os.path.exists("/dev/fd"):  # which udev would have made
        os.symlink("/proc/self/fd", "/dev/fd")
    (lab.tmp / "config").write_text(f"TEST_DEVS=({device.path})\nTIMEOUT={SECONDS}\n")
    check = ["env", "-C", SUITE, "./check", "-c", lab.tmp / "config", "-o", lab.tmp / "results", name]
    done = sh(*check, check=False, timeout=500)
    print(done.stdout)
    outcomes = OUTCOME.findall(done.stdout)
    if name in NOT_RUN:
        assert outcomes == ["not run"], f"{name} has run: {done.stdout}"
        pytest.skip(NOT_RUN[name])
    assert (done.returncode, outcomes) == (0, ["passed"]), done.stdout
    assert device.counters()["redirected"] > before
