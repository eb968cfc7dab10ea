"""Runs that are killed in the middle: they go on to the very same model, and nothing is spent twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

SCRIPT = Path(__file__).with_name("killed_run.py")
ROOT = SCRIPT.parents[2]
ROUNDS, AT = 5, 3  # killed in round 3

# Where, step, how often it comes before, rounds that were charged and are lost.
OF_CHECKPOINT = {
    "marked": 1,
    "described": 1,
    ".safetensors:written": 1,
    ".safetensors:synced": 1,
    ".safetensors:renamed": 1,
    "noted": 1,
    ".json:written": 1,
    ".json:synced": 1,
    ".json:renamed": 0,
    "saved": 0,
}
OF_LEDGER = {"reserve:begin": 0, "reserve:committed": 1, "settle:begin": 1, "settle:committed": 1}


def case(name: str, kill: list | None, *, memories: bool = False) -> dict:
    return {"name": name, "kill": kill, "private": not memories, "memories": memories}


def cases() -> list[dict]:
    found = [case("whole, private", None), case("whole, memories", None, memories=True)]
    found += [case(f"private, {step}", ["checkpoint", step, AT]) for step in OF_CHECKPOINT]
    found += [case(f"private, {step}", ["ledger", step, AT]) for step in OF_LEDGER]
    found += [
        case(f"memories, {step}", ["checkpoint", step, AT], memories=True) for step in ("marked", "noted", "saved")
    ]
    # A client's home is written once when a round commits and once when it is marked: twice a round.
    for client, occurrence in (("c0", 2 * AT - 1), ("c2", 2 * AT - 1), ("c3", 2 * AT)):
        for step in (".safetensors:written", ".safetensors:renamed"):
            kill = [client, step, occurrence]
            found.append(case(f"memories, {client} {step} {occurrence}", kill, memories=True))
    return [*found, case("private, before any checkpoint", ["checkpoint", "marked", 1])]


QUICK = {
    "whole, private",
    "private, .json:written",
    "private, settle:committed",
}


def ran(chosen: list[dict], directory: Path) -> dict[str, dict]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "protocols", "accounting")),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(directory)],
        input=json.dumps(chosen),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, dict] = json.loads(done.stdout)
    assert all(result["ended"] == 0 for result in found.values()), done.stderr[-4000:]
    return found


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> dict[str, dict]:
    return ran([one for one in cases() if one["name"] in QUICK], tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def rest(tmp_path_factory) -> dict[str, dict]:
    chosen = [one for one in cases() if one["name"] not in QUICK or one["name"].startswith("whole")]
    return ran(chosen, tmp_path_factory.mktemp("rest"))


def chosen(*, private_only: bool = False) -> list:
    names = [one["name"] for one in cases() if one["kill"] and "before" not in one["name"]]
    names = [name for name in names if name.startswith("private") or not private_only]
    return [
        pytest.param(name, "quick" if name in QUICK else "rest", marks=() if name in QUICK else pytest.mark.slow)
        for name in names
    ]


@pytest.mark.parametrize(("name", "where"), chosen())
def test_a_killed_run_goes_on_to_the_same_model(request, name, where) -> None:
    results = request.getfixturevalue(where)
    result = results[name]
    whole = results["whole, private" if name.startswith("private") else "whole, memories"]
    assert result["killed"] == -signal.SIGKILL
    assert result["resumed_at"] in (AT - 1, AT)
    assert result["parameters"] == whole["parameters"]  # bit for bit
    assert result["memories"] == whole["memories"]
    assert any(result["memories"]) == name.startswith("memories")
    assert result["rounds"] == ROUNDS
    assert result["history"] == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize(("name", "where"), chosen(private_only=True))
def test_nothing_is_spent_twice_but_what_was_lost(request, name, where) -> None:
    results = request.getfixturevalue(where)
    result, whole = results[name], results["whole, private"]
    lost = (OF_CHECKPOINT | OF_LEDGER)[name.removeprefix("private, ")]
    assert whole["charged"] == ROUNDS
    assert result["charged"] == ROUNDS + lost
    assert result["spent"] == pytest.approx(whole["spent"] * (ROUNDS + lost) / ROUNDS, rel=1e-6)
    said = [text for text in result["warnings"] if "charged after the checkpoint" in text]
    assert len(said) == lost
    assert all("1 release(s)" in text for text in said)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(rest) -> None:
    result = rest["private, before any checkpoint"]
    assert (result["killed"], result["resumed_at"], result["rounds"]) == (-signal.SIGKILL, 0, ROUNDS)
    assert result["charged"] == ROUNDS + 1
