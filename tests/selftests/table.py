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
`tests/selftests/kublk` translates. What passes with kublk must pass with ours, but for what cannot apply
(`tests/selftests/not-applicable.txt`), and that must fail.

The scripts are run as they are. `fio` is made to write and verify an eighth, because all of this runs in an emulator. Many
of them work in subshells whose failure they do not hear of; so one that prints a complaint counts as failed, with either server. A
stripe is a null device with a BPF program that spreads its requests over the files.

"""


def ours(script, expected, run, reasons):
    if script in reasons:
        return f"does not apply: {reasons[script]}"
    if script not in run:
        return "" if expected != "passed" else "not run"
    row = run[script]
    without = f", without {' '.join(row['left_out'])}" if row["left_out"] else ""
    return row["outcome"] + without


def main():
    result = json.loads(Path(sys.argv[1]).read_text())
    reference = json.loads((HERE / "reference.json").read_text())["scripts"]
    rows = [l.split(maxsplit=1) for l in (HERE / "not-applicable.txt").read_text().splitlines()]
    reasons = {row[0]: row[1] for row in rows if row and row[0] != "#"}
    lines = [HEAD.format(**result) + "| script | kublk | ublk-bpf |", "|---|---|---|"]
    for script, expected in sorted(reference.items()):
        lines.append(f"| `{script}` | {expected} | {ours(script, expected, result['scripts'], reasons)} |")
    passed = sum(row["outcome"] == "passed" for row in result["scripts"].values())
    lines += ["", "The scripts `test_recover_*` and `test_stress_*` have not been compared yet."]
    lines += ["", f"kublk: {sum(v == 'passed' for v in reference.values())} passed; ublk-bpf: {passed} of them."]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
