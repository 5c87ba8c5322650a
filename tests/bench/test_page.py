# SPDX-License-Identifier: MIT
"""bench/page.py and what it is made of: plots and tables of a result as one page."""

import contextlib
import copy
import html
import io
import json
import re
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import synthetic  # first: it says where bench is

import page
import plots
import result as results

HOSTILE = '<script>alert("1")</script> & $x^2$ --> \\ \' \x1b[31m \ud800 \u202e'
SVG = "{http://www.w3.org/2000/svg}"


def run(*args):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        return page.main([str(a) for a in args]), err.getvalue()


def small():
    """A result that is drawn quickly."""
    found = synthetic.result()
    found["cells"] = [c for c in found["cells"] if c["path"] in ("raw", "program") and c["bs"] in (512, 4096)]
    return found


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.source = cls.dir / "result.json"
        cls.source.write_text(json.dumps(synthetic.result()))
        assert run(cls.source, "-o", cls.dir / "report.html", "--svg", cls.dir / "svg") == (0, "")
        cls.text = (cls.dir / "report.html").read_text()
        cls.tree = ElementTree.fromstring(cls.text)

    def made(self, data, *args):
        """The page of other data, parsed, and its text."""
        source = self.dir / "other.json"
        source.write_text(json.dumps(data))
        self.assertEqual(run(source, "-o", self.dir / "other.html", *args), (0, ""))
        text = (self.dir / "other.html").read_text()
        return ElementTree.fromstring(text), text

    def test_every_path_is_in_a_plot_and_in_a_table(self):
        drawn = {"".join(e.itertext()).strip() for e in self.tree.iter(f"{SVG}text")}
        tabled = {e.text for e in self.tree.iter("{http://www.w3.org/1999/xhtml}td")}
        for path in [*synthetic.MODEL, *synthetic.NULL_MODEL]:
            self.assertIn(path, drawn)
            self.assertIn(path, tabled)

    def test_every_plot_is_there_and_is_a_file_too(self):
        names = {e.get("id") for e in self.tree.iter("{http://www.w3.org/1999/xhtml}figure")}
        self.assertLessEqual({"null-blk-payers-read-4k-qd1", "null-blk-payers-read-4k-qd32", "null-blk-payers-read-64k-qd1", "null-blk-block-size",
                              "null-blk-depth", "null-blk-devices", "null-blk-latency", "null-target-payers-read-64k-qd32"}, names)
        self.assertEqual({p.stem for p in (self.dir / "svg").iterdir()}, names)
        for file in (self.dir / "svg").iterdir():
            self.assertEqual(ElementTree.parse(file).getroot().tag, f"{SVG}svg")

    def test_nothing_is_loaded(self):
        for element in self.tree.iter():
            for name, value in element.attrib.items():
                if name.endswith(("src", "href")):
                    self.assertRegex(value, "^#", f"{element.tag} {name}")
            self.assertNotIn(element.tag.rpartition("}")[2], ("link", "script", "img", "iframe", "object", "image"))
        self.assertNotRegex(self.text, r"@import|url\((?!#)")
        for file in (self.dir / "svg").iterdir():
            self.assertNotRegex(file.read_text(), r'href="(?!#)')

    def test_ids_are_one_elements_and_references_find_theirs(self):
        ids = [e.get("id") for e in self.tree.iter() if e.get("id")]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertLessEqual(set(re.findall(r'(?:href="|url\()#([^")]+)', self.text)), set(ids))

    def test_hostile_names_are_text(self):
        data = small()
        for cell in data["cells"]:
            cell["path"] = cell["path"].replace("raw", HOSTILE)
        data["backings"]["null_blk"] = data["kernel"] = data["host"]["commit"] = HOSTILE
        data["absent"] = [{"path": HOSTILE, "why": HOSTILE}]
        data["notes"], data["checks"][0]["name"] = [HOSTILE], HOSTILE
        data["paths"] = [{"name": HOSTILE, "backing": HOSTILE, "what": HOSTILE, "checked": True}]
        data["settings"][HOSTILE] = HOSTILE
        tree, text = self.made(data)
        self.assertNotIn("<script", text)
        self.assertNotIn("\x1b", text)
        self.assertIn(html.escape('<script>alert("1")</script> & $x^2$'), text)
        self.assertTrue(any("<script>" in "".join(e.itertext()) for e in tree.iter(f"{SVG}text")))

    def test_svgs_are_the_same_each_time(self):
        result = results.Result(small())
        one, other = plots.all_plots(result), plots.all_plots(result)
        self.assertTrue(one)
        self.assertEqual(one, other)
        self.assertFalse([name for name, _, svg in one if re.search(r"20\d\d-\d\d-\d\d|<metadata", svg)])

    def test_what_is_not_there_is_left_out(self):
        data = small()
        for cell in data["cells"]:
            for name in ("payers", "latency_ns", "syscalls_per_io", "wakeups_per_io", "copied_bytes_per_io", "context_switches_per_io", "iops"):
                cell[name] = None
        for name in ("paths", "absent", "checks", "settings", "host", "generator_part", "notes", "backings"):
            del data[name]
        _, text = self.made(data)
        self.assertNotIn("Who pays", text)
        self.assertIn("not measured", text)
        self.made({**data, "cells": []})

    def test_a_broken_limit_and_an_interruption_are_said_at_the_top(self):
        data = small()
        data["checks"][0]["ok"] = False
        data["interrupted"] = True
        _, text = self.made(data)
        top = text[:text.index("<h2>")]
        self.assertIn("1 of 1 limits are broken", top)
        self.assertIn("interrupted", top)
        self.assertNotIn("alarm\">", self.text[self.text.index("<body>"):self.text.index("<h2>")])

    def test_what_differs_less_than_the_spread_is_called_equal(self):
        data = small()
        for cell in data["cells"]:
            cell["spread"] = 0.9
        _, text = self.made(data)
        self.assertIn("<td>=</td>", text)
        self.assertIn("<b>equal</b>", self.made({**data, "cells": data["cells"] + [{**c, "path": "kernel loop"} for c in data["cells"]
                                                                                   if c["path"] == "program"]})[1])

    def test_measured_on_a_host_it_says_so(self):
        text = self.made({**small(), "unit": "cpu_ns"})[1]
        self.assertIn("CPU time on this host", text)
        self.assertNotIn("What is counted is guest instructions", text)

    def test_results_of_before_the_sets_become_pages(self):
        for file in sorted((synthetic.BENCH / "results").glob("*.json")):
            with self.subTest(file.name):
                self.made(json.loads(file.read_text()))

    def test_errors_are_one_line_and_leave_nothing(self):
        bad = self.dir / "bad.json"
        bad.write_text('{"version": 1')
        target = self.dir / "bad.html"
        status, err = run(bad, "-o", target)
        self.assertEqual((status, err.count("\n"), target.exists()), (2, 1, False))
        self.assertIn("cut short", err)
        status, err = run(self.source, "-o", self.dir / "none" / "report.html")
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertIn("No such file or directory", err)

    def test_without_matplotlib_it_says_what_to_install(self):
        real = plots.matplotlib
        self.addCleanup(setattr, plots, "matplotlib", real)
        plots.matplotlib = None
        status, err = run(self.source, "-o", self.dir / "bare.html")
        self.assertEqual((status, err.count("\n"), (self.dir / "bare.html").exists()), (2, 1, False))
        self.assertIn("python3-matplotlib", err)

    def test_the_result_is_not_changed(self):
        data = results.Result(small())
        before = copy.deepcopy(data.data)
        page.page(data, [])
        self.assertEqual(data.data, before)


if __name__ == "__main__":
    unittest.main()
