# SPDX-License-Identifier: MIT
"""bench/claims.py: what is made of the cells for each published claim."""

import contextlib
import io
import json
import unittest

import synthetic  # first: it says where bench is

import claims
import result as results

KIB = 1 << 10


class Claims(unittest.TestCase):
    def setUp(self):
        self.data = synthetic.result()

    def of(self, name):
        """The claim as measured."""
        return next(c for c in claims.measured(results.Result(self.data)) if c["name"] == name)

    def cells(self, backing, path, **job):
        return [c for c in self.data["cells"] if (c["backing"], c["path"]) == (backing, path) and all(c[k] == v for k, v in job.items())]

    def cost(self, value, backing, path, **job):
        found = self.cells(backing, path, **job)
        self.assertTrue(found)
        for c in found:
            c["cost_per_io"] = value

    def ratio(self, claim, what):
        return next(r for r in self.of(claim)["rows"] if r["what"] == what)["ratio"]

    def test_all_claims_are_there_and_measured(self):
        found = claims.measured(results.Result(self.data))
        self.assertEqual(len(found), 6)
        for c in found:
            with self.subTest(c["name"]):
                self.assertTrue(c["measured"] and c["rows"] and c["why"] and c["source"])

    def test_without_cells_nothing_is_claimed(self):
        self.data["cells"] = []
        for c in claims.measured(results.Result(self.data)):
            self.assertEqual((c["measured"], c["rows"], c["why"]), (None, [], []))
        self.assertEqual(claims.text(results.Result(self.data)).count("not measured"), 6)

    def test_the_daemons_part_is_of_the_servers_payers(self):
        for name, size in (("daemon's CPU at 2 MiB", 2048 * KIB), ("daemon's CPU at 512 KiB", 512 * KIB)):
            with self.subTest(name):
                for path, user, system, cost in (("server", 1000.0, 3000.0, 10000.0), ("program", 0, 40.0, 4000.0)):
                    self.cost(cost, "null_blk", path, rw="write", bs=size, qd=16)
                    self.cells("null_blk", path, rw="write", bs=size, qd=16)[0]["payers"] |= {"server_user": user, "server_system": system}
                found = self.of(name)
                self.assertEqual([(r["before"], r["after"]) for r in found["rows"]], [(4000, 40), (0.4, 0.01), (10000, 4000)])
                self.assertIn("to 40 per I/O, 1.0% of it", found["measured"])
                self.assertIn("40% and 1%", found["measured"])

    def test_a_server_that_is_not_woken_has_nothing_left(self):
        found = self.of("daemon's CPU at 2 MiB")
        self.assertIn("to nothing", found["measured"])
        self.assertIn("Less is left", found["why"][0])

    def test_more_left_than_claimed_is_said(self):
        self.cells("null_blk", "program", rw="write", bs=2048 * KIB, qd=16)[0]["payers"]["server_system"] = 200000
        self.assertIn("More is left", self.of("daemon's CPU at 2 MiB")["why"][0])

    def test_payers_that_were_not_looked_at_are_not_measured(self):
        self.cells("null_blk", "server", rw="write", bs=2048 * KIB, qd=16)[0]["payers"] = None
        self.assertIsNone(self.of("daemon's CPU at 2 MiB")["measured"])

    def test_zero_copy_is_copys_cost_over_its_own(self):
        self.cost(50000, "null target", "kublk, copy", bs=64 * KIB)
        self.cost(10000, "null target", "kublk, zero-copy", bs=64 * KIB)
        self.assertEqual(self.ratio("zero copy against copy", "kublk: copy / zero-copy, read 64k QD32"), 5)
        self.assertIn("64k", self.of("zero copy against copy")["measured"])

    def test_loop_is_the_servers_cost_over_the_kernels(self):
        self.cost(9000, "null_blk", "server, auto-zero-copy", rw="read", bs=4 * KIB, qd=32, pattern="random", devices=1)
        self.cost(12000, "null_blk", "kernel loop", rw="read", bs=4 * KIB, qd=32, pattern="random", devices=1)
        self.assertEqual(self.ratio("ublk loop against kernel loop", "server, auto-zero-copy / kernel loop, read 4k QD32"), 0.75)
        self.assertRegex(self.of("ublk loop against kernel loop")["measured"], r"^in [1-9]\d* of 48 cases")

    def test_registration_is_explicits_cost_over_automatics(self):
        name, row = "automatic against explicit registration", "kublk: zero-copy / auto-zero-copy, read 4k QD32"
        self.cost(15000, "null target", "kublk, zero-copy")
        self.cost(10000, "null target", "kublk, auto-zero-copy")
        self.assertEqual(self.ratio(name, row), 1.5)
        self.assertFalse([w for w in self.of(name)["why"] if "less than claimed" in w])
        self.cost(12000, "null target", "kublk, zero-copy")
        self.assertTrue([w for w in self.of(name)["why"] if "less than claimed" in w])

    def test_nbd_is_its_cost_over_our_servers(self):
        for qd, nbd, ours in ((1, 60000, 30000), (32, 30000, 10000)):
            self.cost(nbd, "null_blk", "nbd, qemu-nbd", rw="read", bs=4 * KIB, qd=qd)
            self.cost(ours, "null_blk", "server", rw="read", bs=4 * KIB, qd=qd)
        self.assertEqual(self.of("ublk against NBD")["measured"], "nbd, qemu-nbd / server, read 4k QD1: 2.00x; nbd, qemu-nbd / server, read 4k QD32: 3.00x")

    def test_what_differs_within_the_spread_is_called_equal(self):
        for path in ("nbd, qemu-nbd", "server"):
            self.cost(30000, "null_blk", path)
        self.assertEqual(self.of("ublk against NBD")["measured"].count("equal"), 2)

    def test_instructions_of_a_copy_are_not_spoken_of_on_a_host(self):
        self.assertIn("0.165", claims.text(results.Result(self.data)))
        self.data["unit"] = "cpu_ns"
        self.assertNotIn("0.165", claims.text(results.Result(self.data)))

    def test_an_old_result_has_the_claims_that_it_can(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(claims.main([str(synthetic.BENCH / "results" / "kublk-7.2.12.json"), "--json"]), 0)
        found = {c["name"]: c["measured"] for c in json.loads(out.getvalue())["claims"]}
        self.assertIn("kublk", found["automatic against explicit registration"])
        self.assertIsNone(found["ublk against NBD"])


if __name__ == "__main__":
    unittest.main()
