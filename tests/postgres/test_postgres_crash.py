"""Clients killed anywhere and eight coordinators at once: on a server, too, nothing is lost and nothing overspent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.accounting.test_ledger_crash import STEPS, Run, check, kill_anywhere, race, run

__all__ = ["run"]


@pytest.mark.parametrize("step", [step for step in STEPS if step.startswith(("open", "reserve", "settle"))])
def test_a_client_killed_at_every_step(run: Run, tmp_path: Path, url: str, step: str) -> None:
    seen = str(tmp_path / "revealed")
    assert run(do="die", path=url, revealed=seen, step=step, rounds=3)["status"] == -9
    check(tmp_path, url)


def test_a_client_killed_anywhere_forty_times(run: Run, tmp_path: Path, url: str) -> None:
    kill_anywhere(run, tmp_path, url, times=40, seed=1)


@pytest.mark.parametrize("new", [True, False])
def test_eight_processes_never_overspend_one_budget(run: Run, url: str, new: bool) -> None:
    race(run, url, new=new)


def test_nor_do_they_where_no_lock_makes_them_queue(run: Run, url: str) -> None:
    """Behind a pooler the session's lock may be somebody else's: serializable isolation alone has to hold."""
    race(run, url, new=False, queue=False)
