# SPDX-License-Identifier: MIT
"""bench/limits.py: what is promised of which cells, and that it can be broken."""

import unittest

import synthetic  # first: it says where bench is

import limits


class Limits(unittest.TestCase):
    def setUp(self):
        self.cells = synthetic.run()["cells"]

    def judged(self, name):
        return {c["where"]: c for c in limits.judge_cells(self.cells) if c["name"] == name}

    def change(self, insns, path, **job):
        found = [c for c in self.cells if c["path"] == path and all(c[k] == v for k, v in job.items())]
        self.assertTrue(found)
        for c in found:
            c["insns_per_io"] += insns
            c["rounds"] = [r + insns for r in c["rounds"]]

    def test_nothing_is_broken_that_is_kept(self):
        self.assertEqual([c for c in limits.judge_cells(self.cells) if not c["ok"]], [])

    def test_a_remapped_disk_costs_no_more_than_dm_linear_by_either_engine(self):
        self.assertEqual(len(self.judged("program / dm-linear")), 16)
        self.change(400, "program", engine="libaio", rw="write", bs=65536, qd=32)
        broken = [where for where, c in self.judged("program / dm-linear").items() if not c["ok"]]
        self.assertEqual(broken, ["null_blk, write 64k QD32, libaio"])

    def test_writes_of_a_mirror_have_limits_of_their_own(self):
        self.cells += [{**c, "path": other, "insns_per_io": c["insns_per_io"] * factor} for c in self.cells if c["path"] == "program"
                       for other, factor in (("program, mirror", 1), ("dm-mirror", 2), ("md raid1", 1.1))]
        found = self.judged("program, mirror / dm-mirror")
        self.assertEqual({where for where, c in found.items() if not c["ok"]}, {f"null_blk, write {bs}k QD1, libaio" for bs in (4, 64)})
        self.assertEqual(len(found), 8)
        self.assertEqual({c["ok"] for c in self.judged("program, mirror / md raid1").values()}, {False})

    def test_a_stripe_is_compared_by_libaio_only(self):
        self.assertEqual(len(self.judged("program, stripe / dm-stripe")), 8)
        self.change(500, "program, stripe", engine="io_uring")
        self.assertTrue(all(c["ok"] for c in self.judged("program, stripe / dm-stripe").values()))
        self.change(500, "program, stripe", engine="libaio", rw="read", bs=4096, qd=1)
        self.assertEqual([where for where, c in self.judged("program, stripe / dm-stripe").items() if not c["ok"]], ["null_blk, read 4k QD1, libaio"])

    def test_clones_have_limits_of_their_own_and_wake_nobody(self):
        def cell(path, rw, cost, backing="null_blk", wakeups=None):
            return {"backing": backing, "path": path, "rw": rw, "bs": 4096, "qd": 1, "engine": "libaio", "ios": 100, "insns_per_io": cost,
                    "rounds": [cost] * 3, "server_wakeups": wakeups}

        memory, first = limits.IN_MEMORY, "first write"
        cells = [cell("clone, base", "read", 7600, wakeups=0), cell("dm-snapshot, origin", "read", 8000), cell("dm-thin", "read", 12600),
                 cell("clone", first, 5900, memory, 0), cell("dm-snapshot", first, 10000, memory), cell("qemu-nbd, qcow2", first, 14000, memory)]
        found = limits.judge_clones(cells)
        self.assertEqual({c["name"]: c["ok"] for c in found}, {
            "clone, base / dm-snapshot, origin": True, "clone, base / dm-thin": False, "clone / dm-snapshot": True, "clone / qemu-nbd, qcow2": False,
            "server wake-ups of hits": True, "server wake-ups of first writes of whole blocks": True})
        cells[3]["server_wakeups"] = 1
        self.assertEqual([c["value"] for c in limits.judge_clones(cells) if not c["ok"] and "first" in c["name"]], [1])

    def test_a_goal_that_is_missed_is_said_and_breaks_nothing(self):
        found = self.judged("program / dm-linear")["null_blk, read 4k QD1"]
        self.assertEqual((found["ok"], found["note"]), (True, "the goal is 0.95"))

    def test_an_empty_completion_program_costs_little(self):
        self.change(100, "program, completion", rw="read", bs=4096, qd=1, engine="io_uring")
        broken = [(where, c["value"]) for where, c in self.judged("program, completion - program").items() if not c["ok"]]
        self.assertEqual(broken, [("null_blk, read 4k QD1", 190)])

    def test_the_possibility_of_a_program_costs_nothing_measurable(self):
        where = "null_blk, read 4k QD1"
        self.change(60, "server, throttled", rw="read", bs=4096, qd=1, engine="io_uring")
        self.assertFalse(self.judged("server, throttled - server, --no-bpf")[where]["ok"])
        # that is what its rounds differ by themselves
        cell = next(c for c in self.cells if c["path"] == "server, throttled" and limits.where(c) == where)
        cell["rounds"] = [cell["insns_per_io"] + d for d in (-40, 0, 40)]
        self.assertTrue(self.judged("server, throttled - server, --no-bpf")[where]["ok"])

    def test_what_is_promised_and_not_measured_is_told(self):
        promise = next(p for p in limits.RATIOS if p.path == "program, stripe")
        self.assertEqual(limits.unproved(self.cells, [promise]), [])
        cells = [c for c in self.cells if c["path"] != "program, stripe" or c["qd"] == 1 or c["rw"] == "read" or c["engine"] == "io_uring"]
        self.assertEqual(limits.unproved(cells, [promise]), [f"program, stripe / dm-stripe: null_blk, write {bs} QD32, libaio" for bs in ("4k", "64k")])

    def test_an_old_result_is_judged_by_what_is_promised_now(self):
        kept = {"name": "attach, idle device", "where": "worst of 3", "value": 2, "limit": 10, "unit": "ms", "ok": True, "note": ""}
        old = {**next(iter(self.judged("program / dm-linear").values())), "limit": 0.1, "ok": False}
        found = limits.judged_again({"cells": self.cells, "checks": [old, kept]})
        self.assertIn(kept, found)
        self.assertEqual([c["limit"] for c in found if (c["name"], c["where"]) == (old["name"], old["where"])], [1.0])

    def test_many_devices_and_other_patterns_are_not_judged(self):
        for change in {"devices": 16}, {"queues": 2}, {"pattern": "sequential"}:
            cells = [{**c, **change} for c in self.cells]
            self.assertEqual([c["name"] for c in limits.judge_cells(cells)], ["server wake-ups under redirected I/O"])

    def test_old_cells_are_of_io_uring(self):
        for c in self.cells:
            if c["engine"] == "io_uring":
                del c["engine"]
        self.assertEqual(len(self.judged("program / dm-linear")), 16)


if __name__ == "__main__":
    unittest.main()
