# SPDX-License-Identifier: MIT
"""The units are such that systemd takes them. What they do on a host that boots and shuts down, tests/packages shows."""

from pathlib import Path

import cli
import pytest
from lab import sh

# about the command's units, not about the face
pytestmark = pytest.mark.one_face

TEMPLATE, SHUTDOWN = "ublk-bpf@.service", "ublk-bpf-shutdown.service"


def test_units_are_valid(lab):
    where = lab.tmp / "units"
    where.mkdir()
    for name in TEMPLATE, SHUTDOWN:
        text = (cli.TREE / f"packaging/{name}.in").read_text()
        (where / name).write_text(text.replace("@CMAKE_INSTALL_FULL_SBINDIR@", str(Path(cli.COMMAND).parent)))
    one = where / TEMPLATE.replace("@", "@x")
    one.symlink_to(TEMPLATE)
    done = sh("systemd-analyze", "verify", "--man=no", one, where / SHUTDOWN, check=False)
    ours = [line for line in done.stdout.splitlines() if "ublk-bpf" in line]
    assert done.returncode == 0 and not ours, done.stdout
