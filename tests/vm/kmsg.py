# SPDX-License-Identifier: MIT
"""What the kernel complained about during a test."""

import os
import re

COMPLAINT = re.compile(
    r"WARNING:|\bBUG:|kernel BUG|Oops|KASAN|UBSAN|KFENCE|kmemleak|lockdep|"
    r"possible (circular|recursive) locking|inconsistent lock state|suspicious RCU|"
    r"general protection fault|unable to handle|Kernel panic|blocked for more than|"
    r"soft lockup|hard LOCKUP|rcu.*(detected stall|self-detected)|sleeping function called|"
    r"scheduling while atomic|refcount_t:|list_(add|del) corruption|Call Trace"
)
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
        lines = self.read()
        bad = [i for i, line in enumerate(lines) if COMPLAINT.search(line) and not HARMLESS.search(line)]
        return lines[max(bad[0] - 2, 0) : bad[0] + 60] if bad else []

    def close(self):
        os.close(self.fd)
