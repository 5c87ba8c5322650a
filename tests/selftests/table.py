# SPDX-License-Identifier: MIT
"""
Writes docs/selftests.md of what the last run of tests/vm/test_selftests.py found, on stdout:

    scripts/in-root python3 tests/selftests/table.py build/vm-test/module/selftests/ours.json >docs/selftests.md
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

HEAD = """<!-- SPDX-License-Identifier: MIT -->
<!-- Made by tests/selftests/table.py; do not edit. -->
# The kernel's selftests of ublk

`tools/testing/selftests/ublk` of Linux {source}, on Linux {kernel} with our `ublk_drv`: once with the kernel's own server, kublk
(`make selftests-reference`, kept in `tests/selftests/reference.json`), and in `make selftests` with ours, whose command line
`tests/selftests/kublk` translates. What passes with kublk must pass with ours, except what cannot apply
(`tests/selftests/not-applicable.txt`), and that must fail. What kublk fails or skips, and why, is in
`tests/selftests/kublk-does-not-pass.txt`.

`make test` runs the first four of `generic` and the first two of `loop`, `null` and `stripe`; `make selftests` and `make test-full` run
all, in 24 minutes on two cores that had other things to do too.

The scripts are run as they are. Three programs that they call are ours (`tests/selftests`), and change something:

- `fio` is made to write and verify an eighth, to run with one job where they ask for several, and for 12 s where they ask for 20
  or 40, because all of this runs in an emulator; with either server.
- `udevadm settle` waits until the devices can be opened: there is no udev; with either server.
- `kublk` is our command. A stripe is a null device with a BPF program that spreads its requests over the files. Its chunks are
  kublk's, 64 KiB, so both files get half of what is written; its requests are at most 256 KiB, kublk's 1 MiB, because a program may
  plan at most eight SQEs for one. Options about how kublk works inside are left out where the table says so.

Many scripts work in subshells whose failure they do not hear of; so one that prints a complaint counts as failed, with either
server.

"""


def reasons(name):
    rows = [line.split(maxsplit=1) for line in (HERE / name).read_text().splitlines()]
    return {row[0]: row[1] for row in rows if row and row[0] != "#"}


def ours(script, run, inapplicable):
    if script in inapplicable:
        return f"does not apply: {inapplicable[script]}"
    if script not in run:
        return "not run"
    row = run[script]
    return row["outcome"] + (f", without {' '.join(row['left_out'])}" if row["left_out"] else "")


def main():
    result = json.loads(Path(sys.argv[1]).read_text())
    reference = json.loads((HERE / "reference.json").read_text())["scripts"]
    inapplicable = reasons("not-applicable.txt")
    why = reasons("kublk-does-not-pass.txt")
    lines = [HEAD.format(**result) + "| script | kublk | ublk-bpf |", "|---|---|---|"]
    for script, expected in sorted(reference.items()):
        kublk = expected + (f": {why[script]}" if script in why else "")
        lines.append(f"| `{script}` | {kublk} | {ours(script, result['scripts'], inapplicable)} |")
    passed = {script for script, expected in reference.items() if expected == "passed"}
    too = {script for script, row in result["scripts"].items() if row["outcome"] == "passed"}
    lines += ["", f"Of {len(reference)} scripts kublk passes {len(passed)}; ublk-bpf passes {len(too & passed)} of these", ""]
    lines[-2] += f", {len(passed & set(inapplicable))} do not apply, and it passes {len(too - passed)} that kublk does not."
    print("\n".join(lines[:-1]))


if __name__ == "__main__":
    main()
