"""The page beside the code: its example runs, and its figures are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from privfed_accounting import fine_grid_charge
from privfed_accounting.chain import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "accounting" / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "accounting")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "1.129 charged, 1.112 to five colluders\n"


def test_the_kinds_are_explained() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \| (?:format|plan|entry|text|head|from)", PAGE, re.MULTILINE)) == KINDS


def test_the_slack_of_ten_thousand_rounds() -> None:
    charge = fine_grid_charge(l2_sensitivity=1.0, dimension=10**6, share_sigma=2.0**24, shares=1)
    assert "have slack 3.0e-6" in PAGE
    assert 1e4 * charge.epsilon_slack == pytest.approx(3.0e-6, rel=0.02, abs=0.0)
