# SPDX-License-Identifier: MIT
"""
Claims that are checked in turn: each is a test case, and one that fails is said at once and does not end the run, unless others need it. One
that cannot be checked here is skipped, and counts as that.
"""

import contextlib
import time
from xml.sax.saxutils import quoteattr

from machine import Lost


class Stop(Exception):
    """What follows cannot be tested."""


class Skip(Exception):
    """The claim cannot be checked here; why."""


class Claims:
    def __init__(self, name, say):
        self.name, self.say = name, say
        self.cases = []

    @contextlib.contextmanager
    def claim(self, text, needed=False):
        began = time.monotonic()
        failure = skipped = None
        try:
            yield
        except Skip as e:
            skipped = str(e)
        except Exception as e:
            failure = str(e) if isinstance(e, (AssertionError, Lost)) and str(e) else repr(e)
            stop = Stop(text) if needed or isinstance(e, Lost) else None
        seconds = time.monotonic() - began
        self.cases.append((text, seconds, failure, skipped))
        if skipped:
            self.say(f"skipped: {text}: {skipped}")
        else:
            self.say(f"{'FAILED' if failure else 'ok'}: {text} ({seconds:.0f} s)" + (f"\n{failure}" if failure else ""))
        if failure and stop:
            raise stop

    def failed(self):
        return sum(1 for _, _, failure, _ in self.cases if failure)

    def skipped(self):
        return sum(1 for _, _, _, skipped in self.cases if skipped)

    def write(self, path):
        lines = [f'<testsuites><testsuite name={quoteattr(self.name)} tests="{len(self.cases)}" failures="{self.failed()}" errors="0" '
                 f'skipped="{self.skipped()}">']
        for text, seconds, failure, skipped in self.cases:
            lines.append(f'<testcase classname={quoteattr(self.name)} name={quoteattr(text)} time="{seconds:.1f}">')
            if failure:
                clean = "".join(c for c in failure if c >= " " or c in "\n\t")
                lines.append(f"<failure message={quoteattr(clean)}/>")
            if skipped:
                lines.append(f"<skipped message={quoteattr(skipped)}/>")
            lines.append("</testcase>")
        lines.append("</testsuite></testsuites>")
        path.write_text("\n".join(lines) + "\n")

    def verdict(self):
        """Says the counts, as the other suites do; returns the exit status."""
        failed, skipped = self.failed(), self.skipped()
        print(f"\n{len(self.cases) - failed - skipped} passed, {failed} failed, {skipped} skipped")
        return 1 if failed else 0
