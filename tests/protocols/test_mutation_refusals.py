"""The script that takes every refusal out: it finds them all, and each is missed by somebody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.protocols.mutation_refusals import REDUNDANT, mutants, refusals

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "protocols" / "mutation_refusals.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)  # coverage of mutants would be nonsense
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_raise_of_a_refusal_is_a_mutant() -> None:
    found = list(mutants())
    raised = {mutant.what.removeprefix("raise ").split("(")[0] for mutant in found if mutant.kind == "raise"}
    assert raised >= refusals()
    assert len({mutant.name for mutant in found}) == len(found) > 200
    for mutant in found:
        compile(mutant.source, mutant.module, "exec")


def test_what_is_called_redundant_is_there_and_is_little() -> None:
    names = {mutant.name for mutant in mutants()}
    assert set(REDUNDANT) <= names
    assert len(REDUNDANT) < len(names) / 10
    assert all(len(reason) > 20 for reason in REDUNDANT.values())


def test_a_refusal_that_is_taken_out_is_noticed_by_its_own_vectors() -> None:
    done = run("--only", "OwnBitOff(", "--jobs", "1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("noticed by refusal-14") == 2


@pytest.mark.slow
def test_no_refusal_can_be_taken_out_unnoticed() -> None:
    done = run()
    assert done.returncode == 0, done.stdout[-4000:]
    assert " 0 survivors" in done.stdout
