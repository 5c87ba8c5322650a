# SPDX-License-Identifier: MIT
"""The program that docs/programs.md shows compiles as the page says, and is the one that the tests in virtual machines attach."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs/programs.md").read_text()


def block(info):
    return re.search(rf"^```{info}\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)[1]


class Programs(unittest.TestCase):
    def test_the_smallest_program_is_the_one_that_is_tested(self):
        self.assertEqual(block("c"), (REPO / "tests/programs/tiny.bpf.c").read_text())

    def test_it_compiles_outside_the_tree_as_the_page_says(self):
        with tempfile.TemporaryDirectory() as where:
            Path(where, "tiny.bpf.c").write_text(block("c"))
            command = block("sh author").replace("/path/to/ublk-bpf", str(REPO))
            done = subprocess.run(["sh", "-ec", command], cwd=where, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertTrue(Path(where, "tiny.bpf.o").exists())


if __name__ == "__main__":
    unittest.main()
