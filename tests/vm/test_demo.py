# SPDX-License-Identifier: MIT
"""What `make demo NATIVE=1` does on a host once everything is built: here the guest is that host."""

import os
import subprocess

import cli
import pytest

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face


@pytest.mark.full
def test_demonstration_on_this_host():
    command = cli.TREE / "build/portable/ublk-bpf"
    done = subprocess.run(
        [cli.TREE / "scripts/demo-steps"],
        env={**os.environ, "UBLK_BPF": str(command), "OBJECTS": str(cli.OBJ_DIR)},
        capture_output=True,
        text=True,
        timeout=cli.seconds(120),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wake-ups" in done.stdout
    assert not cli.devices()
