"""The benchmarks run and report what they say; timings are not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def run(script: str, *arguments: str) -> dict[str, object]:
    command = [sys.executable, f"benchmarks/{script}.py", "--json", *arguments]
    path = os.pathsep.join(str(ROOT / part) for part in ("", "protocols", "accounting"))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_few_bits_cost_what_the_theory_says_and_skellam_less_than_the_discrete_gaussian() -> None:
    rows: Any = run("distributed_mean", "--clients", "200", "--dimension", "256", "--bits", "10", "--rounds", "3")[
        "rows"
    ]
    skellam, gaussian = rows
    assert (skellam["law"], gaussian["law"]) == ("skellam", "discrete_gaussian")
    for row in rows:
        assert row["noise"] * 0.8 < row["measured"] < row["theory"] * 1.25
        assert row["wrapped"] == 0
    assert 1 < skellam["theory"] < gaussian["theory"]


def test_rotation_benchmark_prints_a_row_for_each_dtype() -> None:
    rows: Any = run("rotation", "--dimensions", "5000", "--repeat", "1")["rows"]
    assert [row["dtype"] for row in rows] == ["float64", "float32"]
    assert all(min(row["rotate"], row["invert"], row["round"], row["random_k"]) > 0 for row in rows)
