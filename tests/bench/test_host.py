# SPDX-License-Identifier: MIT
"""bench/host.py: what perf says, as perf 6.1 said it, and with a processor's counters as its manual page has them."""

import unittest

import synthetic  # noqa: F401  first: it says where bench is

import host

VIRTUAL = """\
<not supported>,,cycles,0,100.00,,
<not supported>,,instructions,0,100.00,,
<not supported>,,cache-misses,0,100.00,,
<not supported>,,dTLB-load-misses,0,100.00,,
"""
PROCESSOR = """\
# started on Sat Nov 21 16:31:15 2026

4000,,cycles,4182470,100.00,,
9000,,instructions,4182470,100.00,2.25,insn per cycle
<not counted>,,cache-misses,0,0.00,,
50,,dTLB-load-misses:k,4182470,100.00,,
"""
TWO_KINDS = """\
3000,,cpu_core/cycles/,4182470,100.00,,
1000,,cpu_atom/cycles/,4182470,100.00,,
7.5,msec,task-clock,7500000,100.00,1.000,CPUs utilized
"""


class Perf(unittest.TestCase):
    def test_counters_are_per_io(self):
        self.assertEqual(host.perf_events(PROCESSOR, 100),
                         {"cycles": 40, "instructions": 90, "cache-misses": None, "dTLB-load-misses": 0.5})

    def test_two_kinds_of_processor_are_added_up(self):
        self.assertEqual(host.perf_events(TWO_KINDS, 100)["cycles"], 40)

    def test_without_counters_there_is_nothing(self):
        for text in VIRTUAL, "", "perf: permission denied\n":
            self.assertIsNone(host.perf_events(text, 100))


if __name__ == "__main__":
    unittest.main()
