"""Killed between any two steps, or anywhere, the ledger may say too much and never too little; and it verifies."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from privfed_accounting import Ledger, LedgerError, Total, verify
from tests.accounting.plans import BUDGET, plan

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    *(f"open:{step}" for step in ("begin", "inserted", "committed")),
    *(f"{kind}:{step}" for kind in ("reserve", "settle", "void", "note") for step in ("begin", "locked", "checked")),
    *(f"{kind}:{step}" for kind in ("reserve", "settle", "void", "note") for step in ("inserted", "committed")),
    "reveal:before",
    "reveal:after",
]
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run scenarios in one warm process."""
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "accounting"))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "accounting" / "crash.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")

    def one(**scenario: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps(scenario) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    yield one
    process.stdin.close()
    process.stdout.close()
    assert process.wait(timeout=60) == 0


def revealed(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def check(folder: Path, location: str | None = None, *, thoroughly: bool = True) -> int:
    """Reopen after a crash: every revealed round is charged, the sum is right, the chain holds, spending goes on."""
    path = folder / "ledger.db" if location is None else location
    with Ledger.open(path, budget=BUDGET) as ledger:
        charged = {record.entry for record in ledger.rounds() if record.status != "void"}
        assert set(revealed(folder / "revealed")) <= charged, "a revealed round was forgotten"
        assert ledger.spent() == Total.of([plan(mu2=1e-5).charge(BUDGET.view)] * len(charged))
        if thoroughly:
            verdict = verify(path)
            assert verdict.ok, verdict.problems
        entry = ledger.reserve(plan(mu2=1e-5))
        reveal = (folder / "revealed").open("a")
        reveal.write(f"{entry}\n")
        reveal.close()
        ledger.settle(entry, participants=50, survivors=50, bytes_up=0)
        return len(charged) + 1


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(run: Run, tmp_path: Path, step: str) -> None:
    path, seen = str(tmp_path / "ledger.db"), str(tmp_path / "revealed")
    rounds = 5
    assert run(do="die", path=path, revealed=seen, step=step, rounds=rounds)["status"] == -9
    check(tmp_path)
    # And once more into the same file, now that it is not new.
    status = run(do="die", path=path, revealed=seen, step=step, rounds=rounds)["status"]
    assert status == (0 if step == "open:inserted" else -9), "only a new ledger is inserted into"
    check(tmp_path)


def test_the_steps_are_all_there_are(tmp_path: Path) -> None:
    """So that a new step cannot go untested."""
    seen = []
    with Ledger.open(tmp_path / "l.db", budget=BUDGET, on_step=seen.append) as ledger:
        ledger.settle(ledger.reserve(plan()), participants=50, survivors=50, bytes_up=0)
        ledger.void(ledger.reserve(plan()), reason="x")
        ledger.note("x")
    assert set(seen) == {step for step in STEPS if not step.startswith("reveal")}


def kill_anywhere(run: Run, folder: Path, location: str | None = None, *, times: int, seed: int) -> None:
    """One ledger, killed and continued again and again: opening it replays the whole chain each time."""
    order = random.Random(seed)
    path, seen = location or str(folder / "ledger.db"), str(folder / "revealed")
    least = 0
    for number in range(times):
        answer = run(do="kill", path=path, revealed=seen, after=order.randrange(1, 60), rounds=20)
        assert answer["status"] == -9
        charged = check(folder, location, thoroughly=number % 25 == 24)
        assert charged > least, "nothing that was charged is lost"
        least = charged
    assert len(revealed(folder / "revealed")) > times


@pytest.mark.parametrize("seed", range(4))
def test_killed_anywhere_two_hundred_times(run: Run, tmp_path: Path, seed: int) -> None:
    kill_anywhere(run, tmp_path, times=50, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_anywhere_a_thousand_times(run: Run, tmp_path: Path, seed: int) -> None:
    kill_anywhere(run, tmp_path, times=50, seed=100 + seed)


@pytest.mark.parametrize("new", [True, False])
def test_eight_processes_never_overspend_one_budget(run: Run, tmp_path: Path, new: bool) -> None:
    race(run, str(tmp_path / "ledger.db"), new=new)


def race(run: Run, location: str, *, new: bool, processes: int = 8, queue: bool = True) -> None:
    """Many processes reserve fortieths of one budget until they are refused: forty are accepted, and no more."""
    if not new:
        Ledger.open(location, budget=BUDGET).close()
    answer = run(do="race", path=location, processes=processes, share=1 / 40, queue=queue)
    assert answer["statuses"] == [0] * processes
    assert len(answer["accepted"]) == processes
    assert sum(answer["accepted"]) == 40
    with Ledger.open(location, budget=BUDGET) as ledger:
        assert len(ledger.rounds()) == 40
        assert ledger.epsilon() <= BUDGET.epsilon
        assert ledger.remaining_mu2() == pytest.approx(0.0, abs=1e-9)
    verdict = verify(location)
    assert verdict.ok, verdict.problems
    assert verdict.settled == 40


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_goes_on_with_its_own_connection(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db", budget=BUDGET) as ledger:
        ledger.reserve(plan())
        child = os.fork()
        if child == 0:
            try:
                ledger.reserve(plan())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        ledger.reserve(plan())
        assert len(ledger.rounds()) == 3
        assert verify(tmp_path / "l.db").ok


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_ledger_in_memory_does_not_cross_a_fork() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ledger.reserve(plan())
        except LedgerError as error:
            status = 0 if "through a file" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
