# SPDX-License-Identifier: MIT
"""An error that nobody looks at does not compile."""

import subprocess
import unittest
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HEAD = """#include "sys/error.h"
using namespace ublk;
Result<int> number();
Result<void> action();
"""
DROPPED = {
    "a value": "number();",
    "an action": "action();",
    "an action in a lambda": "[] { action(); }();",
    "kept and not read": "Result<void> kept = action();",
    "kept and not read, with auto": "auto kept = number();",
    "not returned": 'fail(22, "no");',
    "not returned, of a system call": 'fail_sys(22, "open of {}", "x");',
    "an error that gains context": 'action().error().in("x");',
}
LOOKED_AT = {
    "passed on": "TRY(action());",
    "passed on with a value": "const int n = TRY_IN(\"x\", number()); if (n) return {};",
    "handled": "if (auto done = number(); !done) return fail(done.error().code(), \"no\");",
    "given up, which shows": "(void)action();",
}


def complaints(statements):
    """For each, in a function of its own, what the compiler says of its line."""
    lines = [f"Result<void> caller{i}() {{ {s} return {{}}; }}" for i, s in enumerate(statements)]
    done = subprocess.run(
        ["g++", "-std=gnu++23", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{REPO}/loader", "-x", "c++", "-"],
        input=HEAD + "\n".join(lines) + "\n", capture_output=True, text=True)
    first = HEAD.count("\n") + 1
    return ["\n".join(l for l in done.stderr.splitlines() if l.startswith(f"<stdin>:{first + i}:")) for i in range(len(lines))]


class MustCheck(unittest.TestCase):
    def test_a_dropped_error_does_not_compile(self):
        for name, said in zip(DROPPED, complaints(DROPPED.values())):
            with self.subTest(name):
                self.assertRegex(said, r"-Werror=unused-(result|value|variable)")

    def test_one_that_is_looked_at_does(self):
        for name, said in zip(LOOKED_AT, complaints(LOOKED_AT.values())):
            with self.subTest(name):
                self.assertNotIn("error", said)


if __name__ == "__main__":
    unittest.main()
