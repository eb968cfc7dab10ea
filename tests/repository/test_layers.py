"""The ladder holds, and the tool that holds it would notice if it did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(tree / part) for part in (".", "protocols", "accounting"))
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the three packages and the contract, to spoil."""
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    ignore = shutil.ignore_patterns("__pycache__", "*.md", "vectors")
    for name in ("privfed", "protocols", "accounting"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    return tmp_path


def test_the_ladder_holds() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("privfed/mechanism/__init__.py", "import privfed.engines", "ladder"),
        ("privfed/federation/__init__.py", "import privfed.learners.mixture", "ladder"),
        ("privfed/stray.py", '"""A module that has no rung."""', "stray"),
        ("protocols/privfed_protocols/__init__.py", "import privfed.errors", "ground"),
        ("protocols/privfed_protocols/__init__.py", "import scipy.special", "few libraries"),
        ("accounting/privfed_accounting/__init__.py", "import privfed_protocols.errors", "independent"),
        ("accounting/privfed_accounting/__init__.py", "import pandas", "ground"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, module: str, statement: str, contract: str) -> None:
    with (tree / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{statement}\n")
    result = lint_imports(tree)
    assert result.returncode != 0
    assert contract in result.stdout
