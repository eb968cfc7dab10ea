"""Importing is cheap: a tool that only reads a ledger, or a shell completion, must not wait for a plotting library."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "matplotlib", "sklearn", "pandas", "sqlalchemy", "scipy.stats", "flwr", "dask")
CPU_SECONDS = 0.6


def run(code: str) -> tuple[str, float]:
    """Run code in a fresh interpreter; return what it printed and the CPU seconds it took, start-up included."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "protocols", "accounting"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        pytest.fail(result.stderr)
    return result.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded_after(code: str) -> set[str]:
    output, _ = run(f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))")
    return set(json.loads(output))


@pytest.mark.parametrize("package", ["privfed", "privfed_protocols", "privfed_accounting"])
def test_import_takes_little_cpu(package: str) -> None:
    seconds = min(run(f"import {package}")[1] for _ in range(3))
    assert seconds < CPU_SECONDS


@pytest.mark.parametrize("package", ["privfed", "privfed_protocols", "privfed_accounting"])
def test_import_loads_nothing_heavy(package: str) -> None:
    assert not loaded_after(f"import {package}").intersection(HEAVY)


def test_the_check_sees_a_heavy_import() -> None:
    assert "scipy.stats" in loaded_after("import privfed, scipy.stats")


def test_no_public_name_drags_in_an_optional_library() -> None:
    """Extras stay extras: every public name can be had where only the runtime dependencies are installed."""
    loaded = loaded_after("import privfed\nfor name in privfed.__all__: getattr(privfed, name)")
    assert not loaded.intersection({"torch", "matplotlib", "sklearn", "pandas", "flwr", "dask", "dp_accounting"})


def test_the_command_line_answers_without_heavy_libraries() -> None:
    loaded = loaded_after("import privfed.cli")
    assert not loaded.intersection({"torch", "matplotlib", "sklearn", "pandas"})
