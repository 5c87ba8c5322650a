# SPDX-License-Identifier: MIT
"""What the kernel complained about during a test."""

import functools
import os
import re
from pathlib import Path

# one extended regular expression a line, the same that the machine's console is judged by
PATTERNS = Path(os.environ.get("UBLK_BPF_BAD_LINES", Path(__file__).resolve().parents[2] / "scripts/vm-bad-lines"))


@functools.cache
def complaint():
    lines = PATTERNS.read_text().splitlines()
    return re.compile("|".join(f"(?:{line})" for line in lines if line and not line.startswith("#")))


# what merely names one of these
HARMLESS = re.compile(r"KASAN shadow|KernelAddressSanitizer initialized|Lockdep initialized|lockdep:.*enabled")


class Kmsg:
    """Kernel messages from now on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def read(self):
        lines = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                lines.append("(messages were lost)")
                continue
            lines.append(record.split(";", 1)[-1].rstrip("\n"))

    def complaints(self):
        lines, bad_line = self.read(), complaint()
        bad = [i for i, line in enumerate(lines) if bad_line.search(line) and not HARMLESS.search(line)]
        return lines[max(bad[0] - 2, 0) : bad[0] + 60] if bad else []

    def close(self):
        os.close(self.fd)
