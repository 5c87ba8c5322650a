# SPDX-License-Identifier: MIT
"""What cmake --install leaves: the command finds its benchmark there, away from the source tree."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import synthetic  # first: it says where bench is

RESULT = synthetic.BENCH / "results/quick-7.2.12.json"


class Install(unittest.TestCase):
    def test_installed_command_reports(self):
        with tempfile.TemporaryDirectory() as tmp:
            done = subprocess.run(["cmake", "--install", os.environ["UBLK_BPF_BUILD"], "--prefix", tmp], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            harness = Path(tmp, "lib/ublk-bpf/bench")
            for name in ("main.py", "runner.py", "load", "payers", "payers.bpf.o", "../bpf/loop.bpf.o", "../bpf/pass.bpf.o"):
                self.assertTrue((harness / name).is_file(), name)
            done = subprocess.run([f"{tmp}/sbin/ublk-bpf", "bench", "report", RESULT, "-o", "out"], cwd=tmp, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("program, --no-inline", done.stdout)
            self.assertIn("<svg", Path(tmp, "out/report.html").read_text(encoding="utf-8"))
            # from there no machine can be started
            done = subprocess.run([f"{tmp}/sbin/ublk-bpf", "bench"], cwd=tmp, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertRegex(done.stderr, "no virtual machine: run it from the source tree, or with --host")


if __name__ == "__main__":
    unittest.main()
