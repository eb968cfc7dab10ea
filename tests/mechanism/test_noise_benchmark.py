"""The benchmark runs and reports what it says; its timings are not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_benchmark_prints_a_row_for_each_scale(form: list[str]) -> None:
    command = [sys.executable, "benchmarks/noise_sampler.py", "--samples", "20000", "--repeat", "1", *form]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protocols")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr
    if form:
        rows = json.loads(done.stdout)["rows"]
        assert {"law", "sigma", "ours", "bar", "keystream", "numpy", "distance_bits"} <= set(rows[0])
        assert all(row["ours"] > 0 and row["distance_bits"] >= 112 for row in rows)
    else:
        rows = done.stdout.splitlines()[2:]
    assert len(rows) == 22
