"""The benchmark runs, finds the same epsilons as dp-accounting, and says what it was held to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_figures_and_their_bars() -> None:
    result = subprocess.run(
        [sys.executable, "benchmarks/accountant.py", "--json", "--rounds", "200", "--tight-rounds", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", "accounting"])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert len(rows) == 4
    assert all(row["seconds"] > 0 and row["bar"] for row in rows)
    assert result.returncode == (0 if all(row["passed"] for row in rows) else 1)
    tight = rows[2]
    assert tight["epsilon"] == pytest.approx(tight["theirs_epsilon"], rel=1e-4)
    assert all(row["times_faster"] > 0 for row in rows[:3])
