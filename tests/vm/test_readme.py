# SPDX-License-Identifier: MIT
"""
What README.md tells people to type works. The word after `sh` says where: `guest` blocks are run here, one after the other, in one
directory that has the programs' objects; `make` blocks name targets of the Makefile; `host` blocks change a real host, and their
scripts must exist.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import cli
import pytest

BLOCK = re.compile(r"^```(\w+) *(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
README = cli.TREE / "README.md"


def blocks():
    return [(m[1], m[2].strip(), m[3]) for m in BLOCK.finditer(README.read_text())]


def of_kind(kind):
    return [text for language, info, text in blocks() if language == "sh" and info == kind]


def test_every_command_says_where_it_is_run():
    unknown = [info for language, info, _ in blocks() if language == "sh" and info not in ("guest", "tracing", "make", "host")]
    assert not unknown, f"README.md has blocks that no test looks at: {unknown}"
    assert of_kind("guest") and of_kind("make")


def test_make_targets_exist():
    makefile = (cli.TREE / "Makefile").read_text()
    named = [line.split()[1] for text in of_kind("make") for line in text.splitlines() if line.startswith("make ")]
    named += re.findall(r"`make ([a-z-]+)", README.read_text())
    assert {"demo", "test"} <= set(named)
    for target in set(named):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README.md names `make {target}`, which does not exist"


@pytest.fixture
def desk(lab, monkeypatch):
    """A directory as a reader would have it: the programs' objects, and the command on the PATH."""
    assert not cli.devices(), "README.md begins with device 0"
    for obj in cli.OBJ_DIR.glob("*.bpf.o"):
        shutil.copy(obj, lab.tmp)
    monkeypatch.setenv("PATH", f"{Path(cli.COMMAND).parent}:{os.environ['PATH']}")
    yield lab.tmp
    subprocess.run(["umount", str(lab.tmp / "mnt")], stderr=subprocess.DEVNULL, check=False)
    cli.run("del", "-a")


def run_blocks(kind, where):
    for text in of_kind(kind):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-x", "-c", text],
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=cli.seconds(120),
            check=False,
        )
        assert done.returncode == 0, f"status {done.returncode}:\n{done.stdout}"


def test_commands_for_a_host_with_a_face(desk):
    run_blocks("guest", desk)


@pytest.mark.skipif(not cli.TRACEPOINTS, reason="this kernel has no tracepoints")
def test_commands_for_a_host_with_tracepoints(desk):
    assert of_kind("tracing")
    subprocess.run(["truncate", "-s", "64M", desk / "disk.img"], check=True)
    run_blocks("tracing", desk)
