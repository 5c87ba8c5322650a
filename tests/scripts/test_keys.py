# SPDX-License-Identifier: MIT
"""Keys of cache entries: the same for the same inputs, wherever the checkout and the cache are, and others for others."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


class Checkout:
    """A copy of what keys are made of, with a cache of its own, in which nothing can be made: the names of locks tell the keys."""

    def __init__(self, top):
        self.repo = top / "repo"
        for part in "scripts", "kernel", "uapi":
            shutil.copytree(REPO / part, self.repo / part)
        self.cache = top / "cache"
        stock = self.cache / "kernel/stock-7.2"
        stock.mkdir(parents=True)
        (stock / "release").write_text("7.2.0\n")
        source = self.cache / "kernel/source-7.3/linux"
        source.mkdir(parents=True)
        (source / "MAINTAINERS").touch()
        tools = top / "tools"
        tools.mkdir()
        (tools / "mmdebstrap").symlink_to("/bin/false")
        self.env = dict(os.environ, UBLK_BPF_CACHE=str(self.cache), PATH=f"{tools}:{os.environ['PATH']}")

    def keys(self):
        for script, kernel in ("build-module", "stock-7.2"), ("series", "source-7.3/linux"):
            subprocess.run([self.repo / "kernel/scripts" / script, self.cache / "kernel" / kernel],
                           env=self.env, capture_output=True)
        found = {name.rsplit("-", 1)[0] if "module" in name else name.split("_")[0]: name
                 for name in (p.name for p in (self.cache / "lock").iterdir())}
        assert {"kernel_module", "series"} <= set(found), found
        return found


class Keys(unittest.TestCase):
    def setUp(self):
        self.top = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.top)

    def checkout(self, name):
        return Checkout(self.top / name)

    def test_do_not_depend_on_where_checkout_and_cache_are(self):
        self.assertEqual(self.checkout("here").keys(), self.checkout("some/where else").keys())

    def test_depend_on_contents_and_names(self):
        base = self.checkout("base").keys()
        for change in (lambda f: f.write_text(f.read_text() + "\n"), lambda f: f.rename(f.with_name("other.h"))):
            other = self.checkout(f"other{id(change)}")
            change(other.repo / "uapi/ublk_bpf.h")
            self.assertNotEqual(base["kernel_module"], other.keys()["kernel_module"])


if __name__ == "__main__":
    unittest.main()
