# SPDX-License-Identifier: MIT
"""The pages lead to each other: no link is dead, docs/index.md has every page, and the README's figures are those that were measured."""

import re
import unittest
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md")), REPO / "bench/README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def text_of(page):
    """Without what is quoted as code."""
    return CODE.sub("", page.read_text())


def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


class Pages(unittest.TestCase):
    def test_no_link_is_dead(self):
        dead = []
        for page in PAGES:
            for link in LINK.findall(text_of(page)):
                if re.match(r"[a-z]+:", link):
                    continue
                name, _, anchor = link.partition("#")
                there = (page.parent / name).resolve() if name else page
                if not there.exists() or (anchor and anchor not in anchors(there)):
                    dead.append(f"{page.relative_to(REPO)}: {link}")
        self.assertEqual(dead, [])

    def test_the_index_has_every_page(self):
        named = {(REPO / "docs" / link.partition("#")[0]).resolve() for link in LINK.findall((REPO / "docs/index.md").read_text())}
        missing = [p.name for p in (REPO / "docs").glob("*.md") if p.name != "index.md" and p not in named]
        self.assertEqual(missing, [])

    def test_the_readme_s_figures_are_those_of_the_performance_page(self):
        rows = re.findall(r"^\| [^|]+ \| [^|]+ \| [\d.]+k / [\d.]+k \|.*$", (REPO / "README.md").read_text(), re.MULTILINE)
        self.assertTrue(rows)
        measured = (REPO / "docs/performance.md").read_text().splitlines()
        self.assertEqual([row for row in rows if row not in measured], [])


if __name__ == "__main__":
    unittest.main()
