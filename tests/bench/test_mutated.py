# SPDX-License-Identifier: MIT
"""Results that are changed at random are refused in one line, or shown: nothing else may come of them."""

import copy
import json
import random
import tempfile
import unittest
from pathlib import Path

import synthetic  # first: it says where bench is

import compare
import page
import report
import result as results

VALUES = (None, 0, -1, 1e300, 1e-300, 0.5, True, "", "x", [], {}, [1], {"a": None}, 1 << 70)
MUTANTS = 400


def mutate(data, rng):
    """Takes one thing away from somewhere, or puts something else in its place."""
    node = data
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if rng.random() < 0.35 or not isinstance(node[key], (dict, list)):
            if rng.random() < 0.25:
                del node[key]
            else:
                node[key] = copy.deepcopy(rng.choice(VALUES))
            return
        node = node[key]


class Mutated(unittest.TestCase):
    def test_a_mutated_result_is_refused_or_shown(self):
        base = synthetic.result()
        base["cells"] = [c for c in base["cells"] if c["path"] in ("raw", "program", "server", "kublk, copy", "server, copy")]
        file = Path(self.enterContext(tempfile.TemporaryDirectory()), "result.json")
        shown = refused = 0
        for seed in range(MUTANTS):
            data, rng = copy.deepcopy(base), random.Random(seed)
            for _ in range(rng.randrange(1, 4)):
                mutate(data, rng)
            file.write_text(json.dumps(data))
            with self.subTest(seed=seed):
                try:
                    result = results.load(file)
                    report.bench(result.data)
                    page.page(result, [])
                    shown += 1
                    compare.text(compare.compare(results.Result(base), result))
                except results.Unusable as e:
                    self.assertNotIn("\n", str(e))
                    refused += 1
        self.assertGreater(min(shown, refused), MUTANTS // 10)


if __name__ == "__main__":
    unittest.main()
