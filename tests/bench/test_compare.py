# SPDX-License-Identifier: MIT
"""bench/compare.py: what is better, worse, equal, and what cannot be compared."""

import contextlib
import copy
import io
import json
import tempfile
import unittest
from pathlib import Path

import synthetic  # first: it says where bench is

import compare


def run(*args):
    """Status, standard output and standard error of compare."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = compare.main([str(a) for a in args])
        except SystemExit as e:
            status = e.code
    return status, out.getvalue(), err.getvalue()


class Compare(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.result = synthetic.result()

    def setUp(self):
        self.dir = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.before = self.file("before.json", self.result)
        self.after = copy.deepcopy(self.result)

    def file(self, name, content):
        path = self.dir / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def compared(self, *args):
        """Status and JSON of before against self.after."""
        status, out, err = run(self.before, self.file("after.json", self.after), "--json", *args)
        self.assertEqual(err, "")
        return status, json.loads(out)

    def cell(self, path, bs=4096, qd=1, rw="read"):
        return next(c for c in self.after["cells"] if (c["path"], c["rw"], c["bs"], c["qd"]) == (path, rw, bs, qd))

    def change(self, path, factor, **job):
        self.cell(path, **job)["cost_per_io"] *= factor

    def refused(self, *args):
        """The one line that says why; the JSON says the same."""
        status, out, err = run(*args)
        self.assertEqual((status, out), (2, ""))
        self.assertRegex(err, r"^compare: [^\n]+\n$")
        status, out, _ = run(*args, "--json")
        self.assertEqual(status, 2)
        self.assertIn(json.loads(out)["error"]["message"], err)
        return err

    def test_the_same_twice_is_equal(self):
        status, found = self.compared()
        self.assertEqual((status, found["worse"], found["better"]), (0, 0, 0))
        self.assertEqual(found["equal"], len(self.result["cells"]))

    def test_what_costs_more_than_the_noise_is_worse_and_the_status_says_so(self):
        self.change("program", 1.02)
        status, found = self.compared()
        self.assertEqual((status, found["worse"], found["better"]), (1, 1, 0))
        self.assertEqual((found["cells"][0]["path"], found["cells"][0]["verdict"], found["cells"][0]["ratio"]), ("program", "worse", 1.02))

    def test_what_costs_less_than_the_noise_is_better(self):
        self.change("program", 0.9)
        status, found = self.compared()
        self.assertEqual((status, found["worse"], found["better"]), (0, 0, 1))

    def test_what_changes_less_than_the_spread_of_either_is_equal(self):
        self.change("program", 1.02)
        self.cell("program")["spread"] = 0.03
        self.assertEqual(self.compared()[0], 0)
        self.cell("program")["spread"] = 0.002
        before = copy.deepcopy(self.result)
        next(c for c in before["cells"] if c["path"] == "program" and c["bs"] == 4096 and c["qd"] == 1)["spread"] = 0.03
        self.file("before.json", before)
        self.assertEqual(self.compared()[0], 0)

    def test_below_the_floor_nothing_differs_however_small_the_spread(self):
        self.change("program", 1.004)
        self.assertEqual(self.compared()[0], 0)
        self.assertEqual(self.compared("--floor", "0.3")[0], 1)

    def test_the_largest_change_comes_first_in_either_direction(self):
        for path, factor in (("raw", 1.05), ("server", 0.5), ("program", 1.3)):
            self.change(path, factor)
        self.assertEqual([c["path"] for c in self.compared()[1]["cells"][:3]], ["server", "program", "raw"])

    def test_cells_of_only_one_are_listed_and_are_not_worse(self):
        self.after["cells"] = [c for c in self.after["cells"] if c["path"] != "dm-linear"]
        self.after["cells"].append({**self.cell("raw"), "path": "new path"})
        status, found = self.compared()
        self.assertEqual(status, 0)
        self.assertEqual({c["path"] for c in found["only_a"]}, {"dm-linear"})
        self.assertEqual({c["path"] for c in found["only_b"]}, {"new path"})
        out = run(self.before, self.dir / "after.json")[1]
        self.assertIn("new path", out)
        self.assertIn("only in", out)

    def test_a_path_with_other_devices_or_order_is_another_cell(self):
        one = self.cell("raw", qd=32)
        self.after["cells"] = [c for c in self.after["cells"] if c is not one]
        self.assertEqual(len(self.compared()[1]["only_a"]), 1)

    def test_the_table_names_what_changed_and_not_what_is_equal(self):
        self.change("program", 1.1)
        _, out, _ = run(self.before, self.file("after.json", self.after))
        self.assertRegex(out, r"null_blk +program +read 4k QD1 +[\d,]+ +[\d,]+ +\+10\.0% +0\.5% +worse")
        self.assertNotIn("kernel loop", out)
        self.assertIn("1 worse, 0 better", out)
        self.assertIn("kernel loop", run(self.before, self.dir / "after.json", "--all")[1])

    def test_another_kernel_is_warned_of(self):
        self.after["kernel"] = "9.9"
        status, found = self.compared()
        self.assertEqual(status, 0)
        self.assertIn("9.9", " ".join(found["warnings"]))

    def test_an_interrupted_result_is_compared_as_far_as_it_goes(self):
        self.after["interrupted"] = True
        del self.cell("program")["cost_per_io"]
        del self.cell("program")["insns_per_io"]
        status, found = self.compared()
        self.assertEqual((status, len(found["only_a"])), (0, 1))
        self.assertIn("interrupted", " ".join(found["warnings"]))

    def test_other_units_settings_or_generators_are_refused(self):
        for change, word in (({"unit": "cpu_ns"}, "CPU time"), ({"generator": {"name": "fio"}}, "fio"),
                             ({"settings": {**self.result["settings"], "icount": "-icount shift=1"}}, "shift=1"),
                             ({"settings": {**self.result["settings"], "null_blk": {"irqmode": 2}}}, "irqmode")):
            with self.subTest(change):
                self.assertIn(word, self.refused(self.before, self.file("after.json", {**self.after, **change})))

    def test_results_without_a_common_cell_are_refused(self):
        self.after["cells"] = [{**c, "backing": "other"} for c in self.after["cells"]]
        self.assertIn("no cell is in both", self.refused(self.before, self.file("after.json", self.after)))

    def test_what_is_no_result_is_refused_in_one_line(self):
        whole = json.dumps(self.result)
        cells = self.result["cells"]
        bad = {
            "cut short": (whole[: len(whole) // 2], "cut short"),
            "not JSON": ("hello\n", "not JSON"),
            "empty": ("", "empty"),
            "not an object": ("[1, 2]", "no `version`"),
            "another version": (json.dumps({**self.result, "version": 2}), "version is 2"),
            "no cells": (json.dumps({"version": 1}), "cells is missing"),
            "a cell without path": (json.dumps({**self.result, "cells": [{"backing": "x"}]}), "path is missing"),
            "a cost of nothing": (json.dumps({**self.result, "cells": [{**cells[0], "cost_per_io": 0}]}), "impossible"),
            "a cost that is text": (json.dumps({**self.result, "cells": [{**cells[0], "cost_per_io": "1"}]}), "cost_per_io"),
            "no number": (whole.replace("0.002", "NaN", 1), "NaN"),
            "deep": ("[" * 100000, "reading a result"),
            "unknown unit": (json.dumps({**self.result, "unit": "parsecs"}), "parsecs"),
        }
        for name, (content, word) in bad.items():
            with self.subTest(name):
                self.assertIn(word, self.refused(self.before, self.file("bad.json", content)))

    def test_what_cannot_be_read_is_refused_in_one_line(self):
        self.assertIn("No such file", self.refused(self.before, self.dir / "none.json"))
        self.assertIn("Is a directory", self.refused(self.before, self.dir))
        (self.dir / "binary").write_bytes(b"\xff\xfe\x00")
        self.assertIn("not text", self.refused(self.before, self.dir / "binary"))

    def test_wrong_use_is_status_2(self):
        for args in ([], [self.before], [self.before, self.before, "--floor", "x"], [self.before, self.before, "--floor", "-1"]):
            with self.subTest(args):
                self.assertEqual(run(*args)[0], 2)

    def test_names_from_a_result_cannot_drive_the_terminal(self):
        self.cell("program")["path"] = "evil\x1b[2J\npath"
        out = run(self.before, self.file("after.json", self.after))[1]
        self.assertNotIn("\x1b", out)
        self.assertIn("evil?[2J path", out)

    def test_results_of_before_the_sets_are_compared(self):
        old = synthetic.BENCH / "results" / "module-7.2.12.json"
        self.assertEqual(run(old, old)[0], 0)
        worse = json.loads(old.read_text())
        for cell in worse["cells"]:
            cell["insns_per_io"] *= 1.3
            cell["rounds"] = [1.3 * r for r in cell["rounds"]]
        self.assertEqual(run(old, self.file("worse.json", worse))[0], 1)


if __name__ == "__main__":
    unittest.main()
