# SPDX-License-Identifier: MIT
"""What a path of bench is made of: how it is made over a backing, and taken away again."""

import subprocess
from dataclasses import dataclass, field

from lab import Failed


class Wrong(Failed):
    """A path does not do what it should: there is no result."""


class Absent(Exception):
    """This path cannot be on this machine; the text says why."""


@dataclass
class Made:
    """A device of a path."""

    node: str
    device: object = None  # lab.Ublk: has wakeups()
    pids: list = field(default_factory=list)  # of its server
    first_bytes: int = 0  # where it is measured
    reads_only: bool = False


@dataclass(frozen=True)
class Shape:
    """Of how many devices it is one, and with how many hardware queues each."""

    queues: int = 1
    devices: int = 1


@dataclass(frozen=True)
class Way:
    """
    How a path is made: make(backing, stack, shape) -> Made; what it takes to take it away goes onto the stack. One that needs disks of
    its own says for each whether it must keep what is written, and gets a list of them as its backing.
    """

    name: str
    what: str
    make: object
    main: bool = False  # one of those that all jobs are done on
    disks: tuple = ()
    kept_mib: int = 0  # of a file, from its beginning: what is written there must be kept

    @property
    def slug(self):
        """Its name as that of a file or a disk."""
        return "".join(c for c in self.name if c.isalnum())


def need_tool(name, package):
    if subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, check=False).returncode:
        raise Absent(f"{name} is missing: apt-get install {package}")
