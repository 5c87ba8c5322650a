# SPDX-License-Identifier: MIT
"""Where in the kernel tasks wait: what to know of a test that hangs."""

from pathlib import Path


def waiting(names=("ublk-bpf", "fuzz-", "fio", "python", "ublk_bpf")):
    """The kernel stacks of the tasks with such names, and of all that wait uninterruptibly."""
    found = []
    for task in sorted(Path("/proc").glob("[0-9]*/task/[0-9]*")):
        try:
            name, state = (task / "comm").read_text().strip(), (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "D" or name.startswith(names):
                found.append(f"{name} {task.parts[2]}/{task.parts[4]} {state}\n{(task / 'stack').read_text()}")
        except OSError:  # it has ended
            pass
    return "\n".join(found)
