# SPDX-License-Identifier: MIT
"""The units are such that systemd takes them. What they do on a host that boots and shuts down, tests/packages shows."""

from pathlib import Path

import cli
import pytest
from lab import sh

# about the command's units, not about the face
pytestmark = pytest.mark.one_face

PACKAGING = cli.TREE / "packaging"
UNITS = [p for kind in ("service", "socket", "timer") for p in (*PACKAGING.rglob(f"*.{kind}.in"), *PACKAGING.rglob(f"*.{kind}"))]


def test_units_are_valid(lab):
    """Those of the examples, too."""
    where = lab.tmp / "units"
    where.mkdir()
    units = []
    for unit in UNITS:
        name = unit.name.removesuffix(".in")
        (where / name).write_text(unit.read_text().replace("@CMAKE_INSTALL_FULL_SBINDIR@", str(Path(cli.COMMAND).parent)))
        if "@" in name:
            # a template is verified as one of its instances
            name, template = name.replace("@", "@x"), name
            (where / name).symlink_to(template)
        units.append(where / name)
    assert len(units) == 6, units
    done = sh("systemd-analyze", "verify", "--man=no", *units, check=False)
    ours = [line for line in done.stdout.splitlines() if "ublk-bpf" in line]
    assert done.returncode == 0 and not ours, done.stdout
