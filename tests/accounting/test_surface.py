"""What the package hands out, what importing it costs, and that its docstrings' examples run."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import privfed_accounting

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(info.name for info in pkgutil.iter_modules(privfed_accounting.__path__))


def loaded_by(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(sys.modules))"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "accounting")},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in result.stdout.split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"sqlalchemy", "sqlite3", "scipy", "numpy", "dp_accounting", "mpmath", "jsonschema"}
    assert not heavy & loaded_by("import privfed_accounting")
    assert not heavy & loaded_by("import privfed_accounting; privfed_accounting.View; privfed_accounting.LedgerError")


def test_numbers_need_no_database() -> None:
    loaded = loaded_by(
        "import privfed_accounting as a; a.Budget(1.0, 1e-6).allowance(); a.fine_grid_charge; a.RoundPlan"
    )
    assert "sqlalchemy" not in loaded


def test_a_ledger_needs_no_other_accountant() -> None:
    loaded = loaded_by("import privfed_accounting as a; a.verify(a.Ledger.open(None, budget=None))")
    assert "sqlalchemy" in loaded
    assert not {"dp_accounting", "mpmath", "jsonschema"} & loaded


def test_every_name_arrives_and_is_listed() -> None:
    for name in privfed_accounting.__all__:
        assert getattr(privfed_accounting, name).__name__ == name
    assert set(privfed_accounting.__all__) <= set(dir(privfed_accounting))
    with pytest.raises(AttributeError, match="frobnicate"):
        privfed_accounting.frobnicate  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"privfed_accounting.{name}")
    assert doctest.testmod(module).failed == 0


def test_every_error_is_one_of_ours_and_the_callers_are_value_errors() -> None:
    errors = [getattr(privfed_accounting, name) for name in privfed_accounting.__all__]
    errors = [each for each in errors if isinstance(each, type) and issubclass(each, Exception)]
    assert len(errors) == 16
    assert all(issubclass(each, privfed_accounting.AccountingError) for each in errors)
    assert issubclass(privfed_accounting.ParameterError, ValueError)
