# SPDX-License-Identifier: MIT
"""What docs/author.md says of `ublk-bpf new`: it writes a program that compiles, which is the one that the tests in virtual machines run."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
COMMAND = REPO / "build/loader/ublk-bpf"
BLOCK = re.search(r"^```sh author\n((?:.*\n)*?)```$", (REPO / "docs/author.md").read_text(), re.MULTILINE)[1]


@unittest.skipUnless(COMMAND.exists(), "the command is not built")
class Author(unittest.TestCase):
    def test_the_steps_of_the_guide(self):
        with tempfile.TemporaryDirectory() as where:
            env = {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
            steps = BLOCK.replace("/path/to/ublk-bpf", str(REPO))
            done = subprocess.run(["sh", "-ec", steps], cwd=where, env=env, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            made = Path(where, "mypolicy")
            self.assertEqual({p.name for p in made.iterdir()} - {"mypolicy.bpf.d"}, {"mypolicy.bpf.c", "mypolicy.bpf.o", "Makefile", "test.sh"})
            self.assertEqual((made / "mypolicy.bpf.c").read_text(), (REPO / "tests/programs/mypolicy.bpf.c").read_text())
            self.assertTrue(os.access(made / "test.sh", os.X_OK))
            again = subprocess.run([COMMAND, "new", "mypolicy"], cwd=where, capture_output=True, text=True)
            self.assertEqual((again.returncode, "File exists" in again.stderr), (1, True), again.stderr)
            for bad in "", "7up", "a-b", "../x", "a" * 33:
                self.assertEqual(subprocess.run([COMMAND, "new", bad], cwd=where, capture_output=True).returncode in (1, 2), True, bad)
            self.assertEqual([p.name for p in Path(where).iterdir()], ["mypolicy"])


if __name__ == "__main__":
    unittest.main()
