"""Fail unless a suite ran whole: some tests, and none of them skipped.

    python scripts/all_ran.py results.xml

Where a browser or a server is promised, a skipped test is a hole that nobody sees. Standard library only.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def counts(results: Path) -> tuple[int, int]:
    """Return the numbers of tests and of skipped tests in a JUnit file."""
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))  # noqa: S314 -- pytest wrote it a moment ago
    return sum(int(suite.get("tests", 0)) for suite in suites), sum(int(suite.get("skipped", 0)) for suite in suites)


if __name__ == "__main__":
    ran, skipped = counts(Path(sys.argv[1]))
    if skipped or not ran:
        raise SystemExit(f"{ran} tests, {skipped} of them skipped; all of them have to run here")
