# SPDX-License-Identifier: MIT
"""
What docs/matrix.md is made of, how it is written and how it is read. Run as a program, by scripts/matrix, with the
/out/matrix.json of each kernel, it prints the document.
"""

import json
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/matrix.md"

KERNELS = ["7.2", "6.18", "6.12"]
TARGETS = ["null", "loop", "fault"]
PATHS = ["auto-zero-copy", "zero-copy", "copy", "user-copy", "need-get-data"]
# Not in batches: need-get-data.
SERVED = [
    (target, path, batch)
    for target in TARGETS
    for path in PATHS
    for batch in (False, True)
    if not (batch and path == "need-get-data")
]
RECOVERY = {"requeue": ["-r", 1], "reissue": ["-r", 1, "-i", 1], "fail_io": ["-r", 1, "-e", 1]}
SERVES = "yes"
DEFAULT_ROW = "default data path"
# UBLK_F_*, and what probe calls it
PROBED = {
    "SUPPORT_ZERO_COPY": "zero_copy",
    "AUTO_BUF_REG": "auto_buf_reg",
    "BATCH_IO": "batch_io",
    "USER_COPY": "user_copy",
    "NEED_GET_DATA": "need_get_data",
}

HEAD = """<!-- SPDX-License-Identifier: MIT -->
# Which kernel serves what

What `ublk-bpf` serves on Debian's own kernels with their own `ublk_drv`, without any kernel part of ours. Written by
`scripts/matrix` from what `tests/vm/test_matrix.py` saw; every cell is run again by `make test`, which fails if it says anything else.

- **yes**: the device was added on that data path and served: fio verify (crc32c, 512 bytes to 512 KiB, 16 at a time, two queues), then
  discard, write zeroes with and without freeing, flush, and the same bytes on the device and in the file below. The null
  target: reads give zeroes, the others no error. `fault` is over loop, some I/O short and some late.
- **needs**: `add` refuses it by this name, and leaves nothing behind. `-b` is delivery in batches.
- Recovery: the server is killed with `-9` under verify, and `recover` starts another.

"""


def row_of(cell):
    target, path, batch = cell
    return f"{target}, {path}{' -b' if batch else ''}"


def recovery_row(mode):
    return f"recovery, {mode} ({' '.join(str(a) for a in RECOVERY[mode])})"


def rows():
    return [DEFAULT_ROW, *map(row_of, SERVED), *map(recovery_row, RECOVERY)]


def read_document():
    """{series: {row: cell}}"""
    columns, result = [], {}
    for line in DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []:
        if not line.startswith("|") or line.startswith("|---"):
            continue
        first, *cells = (c.strip().replace("`", "") for c in line.strip("|").split("|"))
        if not columns:
            columns = [c.removeprefix("linux ") for c in cells]
            result = {series: {} for series in columns}
            continue
        for series, cell in zip(columns, cells, strict=True):
            result[series][first] = cell
    return result


def cell_text(cell):
    if cell.startswith("needs "):
        return "needs " + " and ".join(f"`{flag}`" for flag in cell.removeprefix("needs ").split(" and "))
    return cell


def document(seen):
    lines = ["| | " + " | ".join(f"linux {series}" for series in KERNELS) + " |", "|---" * (len(KERNELS) + 1) + "|"]
    for row in rows():
        lines.append(f"| {row} | " + " | ".join(cell_text(seen[series]["cells"][row]) for series in KERNELS) + " |")
    releases = ", ".join(seen[series]["release"] for series in KERNELS)
    return f"{HEAD}" + "\n".join(lines) + f"\n\nSeen on {releases}.\n"


def main(files):
    seen = {}
    for file in files:
        one = json.loads(Path(file).read_text())
        missing = [row for row in rows() if row not in one["cells"]]
        if missing:
            sys.exit(f"{file}: nothing was seen of: {'; '.join(missing)}")
        seen[one["series"]] = one
    missing = [series for series in KERNELS if series not in seen]
    if missing:
        sys.exit(f"nothing was seen of linux {', '.join(missing)}")
    sys.stdout.write(document(seen))


if __name__ == "__main__":
    main(sys.argv[1:])
