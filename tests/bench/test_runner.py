# SPDX-License-Identifier: MIT
"""bench/runner.py and sets.py: what a result says of a cell, and which jobs there are."""

import unittest

import synthetic  # noqa: F401  first: it says where bench is

import measure
import runner
import sets


class Cells(unittest.TestCase):
    def test_what_is_said_on_the_way_is_not_what_is_said_in_the_end(self):
        cell = measure.Cell(measure.Path("null_blk", "raw", "/dev/null"), sets.CORE[0])
        for rounds, cost in ([300.0], 300.0), ([300.0, 100.0, 110.0], 110.0):
            cell.rounds[:] = rounds
            cell.wall = rounds[-1]
            found = runner.finish(cell, "instructions")
            self.assertEqual((found["cost_per_io"], found["insns_per_io"], found["iops"]), (cost, cost, round(1e9 / rounds[-1], 1)))
        cell.more["payers"] = {"submitter_user": 1}
        self.assertEqual(runner.finish(cell, "instructions")["payers"], {"submitter_user": 1})


class Sets(unittest.TestCase):
    def test_each_set_times_some_of_its_jobs(self):
        for name in "quick", "full", "device":
            chunks = sets.chunks_of(name)
            self.assertTrue(any(c.latency for c in chunks), name)
            for chunk in chunks:
                self.assertLessEqual(set(chunk.latency), {*chunk.jobs, *chunk.main_jobs}, chunk.name)
            self.assertEqual(len({c.name for c in chunks}), len(chunks))


if __name__ == "__main__":
    unittest.main()
