# SPDX-License-Identifier: MIT
"""bench/report.py and perfdoc.py: results as text and as the pages of docs/performance, old ones as they were."""

import copy
import json
import re
import tempfile
import unittest
from pathlib import Path

import synthetic  # first: it says where bench is

import limits
import perfdoc
import report
import tables
from result import Job, Result

REPO = synthetic.BENCH.parent
DOCS = REPO / "docs"


class Text(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.data = synthetic.result()
        cls.text = report.text(cls.data)

    def row(self, path, text=None, after=""):
        """Words of the first line that is of a path, after some text."""
        text = text or self.text
        line = next(line for line in text[text.index(after):].splitlines() if line.startswith(f"{path}  "))
        return line[len(path):].split()

    def test_every_path_and_job_is_in_a_table(self):
        result = Result(self.data)
        for backing in result.backings:
            self.assertIn(f"== {backing}", self.text)
            for path in result.paths(backing):
                self.assertRegex(self.text, rf"(?m)^{re.escape(path)}  +[\d.]+")
            for job in result.jobs(backing):
                self.assertIn(job.name, self.text)

    def test_a_job_is_in_one_family_only(self):
        result = Result(self.data)
        jobs = [j for _, group in tables.families(result.jobs("null_blk")) for j in group]
        self.assertEqual(sorted(jobs), sorted(result.jobs("null_blk")))

    def test_the_programs_ratio_is_of_its_cost_over_the_paths(self):
        data = copy.deepcopy(self.data)
        for cell in data["cells"]:
            cell["cost_per_io"] = {"program": 5000.0, "kernel loop": 20000.0, "raw": 5005.0}.get(cell["path"], 7000.0)
        text = report.text(data)
        self.assertEqual(self.row("kernel loop", text, "by block size")[:2], ["20.0k", "0.25"])
        self.assertEqual(self.row("raw", text, "by block size")[1], "=", "0.1 % with a spread of 0.2 %")

    def test_who_pays_adds_up(self):
        result = Result(self.data)
        payers = result.figure("null_blk", "server", Job("read", 4096, 1), "payers")
        self.assertAlmostEqual(sum(payers.values()), result.cost("null_blk", "server", Job("read", 4096, 1)), delta=1)
        words = self.row("server", after="who pays, read 4k QD1")
        self.assertEqual(words[-2:], [tables.figure(sum(payers.values())), "50%"])

    def test_what_looking_costs_is_said(self):
        data = copy.deepcopy(self.data)
        for n, cell in enumerate(data["cells"]):
            cell["traced_cost_per_io"] = cell["cost_per_io"] * (1.5 if n == 0 else 1.25 if n % 2 else 1.3)
        self.assertRegex(report.text(data), r"1\.[23][05] times as much \(median; 1\.25 to 1\.50\)")
        for cell in data["cells"]:
            cell["payers"] = None
        self.assertNotIn("Who pays was looked at", report.text(data))

    def test_what_is_absent_is_listed(self):
        self.assertIn("absent: io_uring BPF loop: nobody keeps one", self.text)

    def test_limits_are_counted(self):
        self.assertTrue(self.text.endswith("1 limits, 0 broken"))
        data = copy.deepcopy(self.data)
        data["checks"][0]["ok"] = False
        self.assertTrue(report.text(data).endswith("1 limits, 1 broken"))
        self.assertIn("BROKEN", report.text(data))

    def test_interruption_and_unchecked_data_are_said(self):
        self.assertNotIn("INTERRUPTED", self.text)
        data = {**self.data, "interrupted": True, "paths": [{"name": n, "backing": b, "what": "", "checked": c} for n, b, c in
                                                             (("program", "null_blk", False), ("server", "null_blk", True), ("x", "null target", False))]}
        self.assertIn("INTERRUPTED", report.text(data))
        self.assertIn("\ndata not checked, null_blk: program\n", report.text(data))
        self.assertNotIn("data not checked", self.text)

    def test_missing_cells_and_figures_leave_gaps(self):
        data = copy.deepcopy(self.data)
        data["cells"] = [c for c in data["cells"] if not (c["path"] == "kernel loop" and c["bs"] == 512)][::2]
        for cell in data["cells"][::3]:
            cell["payers"] = cell["latency_ns"] = cell["syscalls_per_io"] = None
        report.text(data)
        report.text({**data, "cells": []})
        self.assertNotIn("program / ", report.text({**data, "cells": [c for c in data["cells"] if c["path"] == "raw"], "checks": []}))

    def test_figures_have_three_digits(self):
        for value, text in ((0, "0"), (0.25, "0.25"), (88.4, "88"), (999.7, "1.00k"), (7240, "7.24k"), (11700, "11.7k"), (346000, "346k"), (1210000, "1.21M")):
            self.assertEqual(tables.figure(value), text)


class Document(unittest.TestCase):
    def test_performance_md_is_what_the_committed_results_give(self):
        made = perfdoc.documents(sorted((synthetic.BENCH / "results").glob("*.json")))
        again = "scripts/in-root python3 bench/perfdoc.py --into docs bench/results/*.json"
        for name, text in made.items():
            with self.subTest(name):
                self.assertTrue((DOCS / name).exists() and (DOCS / name).read_text(encoding="utf-8") == text, f"docs/{name}: {again}")
        self.assertEqual({f"performance/{p.name}" for p in (DOCS / "performance").iterdir()} | {"performance.md"}, set(made), again)

    def made_of(self, *results):
        """The documents of some results, by the names of their files."""
        with tempfile.TemporaryDirectory() as d:
            for name, data in results:
                Path(d, name).write_text(json.dumps(data))
            return perfdoc.documents([Path(d, name) for name, _ in results])

    def test_each_page_answers_one_question_and_is_linked(self):
        data = synthetic.result()
        data["cells"] = [c for c in data["cells"] if c["path"] in ("raw", "kernel loop", "program", "server")]
        data["absent"] = [{"path": "a|b", "why": "a pipe"}]
        made = self.made_of(("quick-test.json", data), ("run.json", synthetic.run()))
        pages = {name for name in made if name.endswith(".md")} - {"performance.md"}
        self.assertEqual({f"performance/{p}" for p in re.findall(r"\]\(performance/([^)]+\.md)\)", made["performance.md"])}, pages)
        for name in pages:
            self.assertRegex(made[name].splitlines()[3], r"^# .*\?$", name)
        shown = {f"performance/{svg}" for text in made.values() for svg in re.findall(r"\]\((?:performance/)?([^)]+\.svg)\)", text)}
        self.assertEqual(shown, {name for name in made if name.endswith(".svg")})
        self.assertIn("performance/quick-test-null-blk-block-size.svg", made)
        self.assertIn("Where the time goes, read 4k QD1", made["performance/paths.md"])
        self.assertIn("12.5 % -> 1 %", made["performance/claims.md"])
        self.assertIn("a\\|b", made["performance/paths.md"])

    def test_what_costs_more_comes_first(self):
        run = synthetic.run()
        front = self.made_of(("run.json", run))["performance.md"]
        self.assertIn("No program costs more", front)
        for cell in run["cells"]:
            if (cell["path"], cell["engine"]) == ("dm-linear", "libaio"):
                cell["insns_per_io"] = 5000.0
        run["checks"] = limits.judge_cells(run["cells"])
        front = self.made_of(("run.json", run))["performance.md"]
        self.assertLess(front.index("8 over the limit of 1**"), front.index("| one disk | dm-linear |"))
        self.assertRegex(front, r"\| one disk \| dm-linear \| .* \| \*\*1\.\d+\*\* \|")

    def test_two_processors_have_a_page_of_their_own(self):
        data = {name: v for name, v in synthetic.run().items() if name not in ("cells", "checks")}
        scaling = [{"path": "program", "queues": 2, "iops_one": 100000, "iops_two": 190000, "scales": 1.9, "waits_per_1000_ios": None}]
        made = self.made_of(("two.json", {**data, "set": "two", "cells": [], "checks": [], "scaling": scaling}))
        self.assertIn("| program | 2 | 100.0k | 190.0k | 1.90 |  |", made["performance/processors.md"])
        self.assertNotIn("performance/processors.md", self.made_of(("run.json", synthetic.run())))

    def test_written_pages_leave_nothing_stale(self):
        with tempfile.TemporaryDirectory() as d:
            perfdoc.write({"performance.md": "a\n", "performance/old.md": "b\n"}, d)
            perfdoc.write({"performance.md": "c\n", "performance/new.md": "d\n"}, d)
            self.assertEqual({p.name for p in Path(d, "performance").iterdir()}, {"new.md"})

    def test_old_results_are_rendered(self):
        for file in sorted((synthetic.BENCH / "results").glob("*.json")):
            data = json.loads(file.read_text())
            if not data.get("set"):
                with self.subTest(file.name):
                    text = report.text(data)
                    broken = sum(not c["ok"] for c in data["checks"])
                    self.assertIn(f"{len(data['checks'])} limits, {broken} broken", text)
                    self.assertTrue(all(c["path"] in text for c in data["cells"]))


if __name__ == "__main__":
    unittest.main()
